"""Damaged stores: one file of a finished stage is harmed at a time; the harm is noticed, and
readers answer with a message.
"""

import json
import os
import random
import shutil
import string

import msgspec
import numpy as np
import pytest
from support.networks import write_classifier
from support.tiny import quickstart

from purify.attacker.attackers_loader import read_poisoner
from purify.attacker.manifest import Manifest
from purify.attacker.poison_plan import read_attacks
from purify.attacks.learned.fitted import read_trigger, write_trigger
from purify.commands.plan import make_stages
from purify.core.errors import UserError
from purify.core.files import read_json, write_json
from purify.data.loader import Split
from purify.data.table import Table
from purify.engine.chain import Chain
from purify.engine.finished import DONE
from purify.engine.stage import Input, Stage
from purify.engine.tables import part_path, read_table, write_columns, write_table
from purify.evaluation import copies, diffusion_answers, dissect, feature_map
from purify.evaluation.results import gather_cost
from purify.generative.pixel_generator import NOTE, open_generator
from purify.stages.named_folders import finished_folder
from purify.stages.networks_on_disk import read_classifier
from purify.stages.train_encoder import describe_encoder

pytestmark = pytest.mark.long
CASES = int(os.environ.get('PURIFY_FUZZ', '500'))
OTHER_JSON = ('null', '[]', '{}', '3', '"x"', 'true', '[[[]]]', '{"a": 1}', '-1e999')
OTHER_JSON += ('[' * 5000, '9' * 5000)
NETWORK = {'name': 'resnet', 'stages': [1], 'block': 'preact', 'width': 4, 'norm': 'group'}
NETWORK |= {'stem': 'small', 'dtype': 'float32'}
IDS = np.arange(6)
KINDS = {'b': np.bool_, 'u': np.uint8, 'iu': np.int64, 'f': np.float32}


def columns(kinds, prefix=''):
    """Columns of the kinds that a reader asks for."""
    return {f'{prefix}{name}': (IDS % 2).astype(KINDS[kind]) for name, kind in kinds.items()}


def write_teacher(work):
    write_classifier(work.folder, 0, NETWORK)


def write_verdicts(work):
    write_table(
        work.folder, Table({'ids': IDS, 'keep': IDS > 2, 'score': IDS / 6}, {'target_labels': [1]})
    )


def write_numbers(work):
    for part in range(2):
        write_columns(
            part_path(work.folder, part, 2),
            {'ids': IDS[part::2], 'features': np.ones((3, 4), np.float32)},
        )


def write_atlas(work):
    write_columns(
        work.folder / feature_map.FILE, columns(feature_map.ON_MAP) | columns(feature_map.CLOSELY)
    )
    write_json(
        work.folder / feature_map.FACTS,
        {'method': 'pca', 'images': 6, 'classes': [1], 'named': [1], 'aims': []},
    )


def write_replication(work):
    write_columns(work.folder / copies.FILE, columns(copies.COLUMNS))
    blank = dict.fromkeys(('mean', 'poisoned_matches', 'poisoned_interval', 'poisoned', 'copied'))
    above = {'limit': 0.3, 'share': 0.5, 'count': 3, 'interval': [0.1, 0.9]}
    facts = {'encoder': 'x', 'copy_detection': True, 'pairs': 6, 'above': above}
    write_json(work.folder / copies.NUMBERS, facts | blank)


def write_dissection(work):
    write_columns(work.folder / dissect.ARRAYS, columns(dissect.OF_A_SET, 'generated_'))
    row = {'label': 1, 'target': True, 'images': 6, 'counts': [6, 0, 0, 0]}
    row |= {'shares': [1.0, 0.0, 0.0, 0.0]}
    row |= {'triggered': 0.0, 'interval': [0.0, 0.4], 'p_t': None}
    numbers = {'judges': {'detector': None}, 'sets': {'generated': [row]}, 'auroc': [], 'fid': {}}
    write_json(
        work.folder / 'numbers.json', numbers | {'sampler': 'ddim', 'guidance': 1, 'steps': 5}
    )


def write_diffused(work):
    facts = {'draws': 5, 'weighting': 'edm', 'images': 6, 'calls_per_image': 50, 'p_filter': 0.0}
    facts |= {'p_filters': [0.0, 0.05]}
    write_json(work.folder / diffusion_answers.FACTS, facts)
    write_columns(
        part_path(work.folder / diffusion_answers.CLEAN, 0, 1),
        {'ids': IDS, 'predictions': np.zeros((6, 2), np.int32)},
    )


def write_fitted(work):
    write_trigger(
        work.folder,
        'lira',
        {'channels': 1, 'target': 0, 'network': {'width': 4}},
        {'generator': {'w': np.ones(9)}},
    )


def write_note(work):
    objective = {
        'name': 'ddpm',
        'drop': 0.1,
        'schedule': {'name': 'linear', 'steps': 9, 'prediction': 'epsilon'},
    }
    write_json(work.folder / NOTE, {'objective': objective, 'class_names': ['a', 'b', 'c']})


def read_prepared(folder):
    manifest = Manifest.read(folder / 'truth')
    read_attacks(folder / 'truth', manifest)
    read_poisoner(folder / 'attacker')
    for sub, split in (('poisoned', 'train'), ('truth/test', 'test'), ('attacker/clean', 'train')):
        len(Split(folder / sub, split))


def read_network(folder):
    read_classifier(folder)
    describe_encoder(folder)
    finished_folder(str(folder))


def read_diffused(folder):
    read_json(folder / diffusion_answers.FACTS, diffusion_answers.Asked)
    read_table(folder / diffusion_answers.CLEAN)


WRITERS = {
    'teacher': (write_teacher, read_network),
    'verdicts': (write_verdicts, read_table),
    'numbers': (write_numbers, read_table),
    'atlas': (write_atlas, feature_map.read_map),
    'replicate': (write_replication, copies.read_replication),
    'dissect': (write_dissection, dissect.read_dissection),
    'diffused': (write_diffused, read_diffused),
    'trigger': (write_fitted, lambda at: read_trigger(at, 'lira', network=True)),
    'generator': (write_note, open_generator),
}


@pytest.fixture(scope='module')
def stages(tmp_path_factory):
    """The stages of a finished chain, the store, and for each stage the one that reads it."""
    config = quickstart('defense=none', '--config.attack.random_poisoning=True')
    (prepare,) = (stage for stage in make_stages(config) if stage.name == 'prepare')
    made = [prepare, *(Stage(name, write, {}) for name, (write, _) in WRITERS.items())]
    readers = [
        Stage(f'after_{stage.name}', lambda work: None, {}, {'in': Input(stage.name)}, sees=('in',))
        for stage in made
    ]
    store = tmp_path_factory.mktemp('store')
    Chain(made, store).run([stage.name for stage in made], config['run'])
    return [*made, *readers], store


def harm(rng, path, files):
    """Harms one file, or two of a stage that change places; -> what undoes it."""
    kind, before = rng.randrange(8), {path: path.read_bytes()}
    data = bytearray(before[path])
    if kind == 0 and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[rng.randrange(len(data) + 1) :]
    elif kind == 2:
        data = bytearray(rng.choice(OTHER_JSON).encode())
    elif kind == 3:
        data = bytearray(rng.randbytes(rng.randrange(1, 70000)))
    elif kind == 4:
        data = bytearray(change_text(rng, before[path]))
    elif kind == 5:
        other = rng.choice(files)
        before[other] = other.read_bytes()
        data = bytearray(before[other])
        other.write_bytes(before[path])
    if kind < 6:
        path.write_bytes(data)
    else:
        path.unlink()
        if kind == 7:
            path.mkdir()
    return before


def change_text(rng, data):
    """JSON with a word for a number or another value in the place of one."""
    text = data.decode('latin-1')
    places = [i for i, letter in enumerate(text) if letter in string.digits + '"[{']
    if not places:
        return b''
    place = rng.choice(places)
    return (
        text[:place]
        + rng.choice(('"word"', 'null', '[]', '{}', '-1', '1e9', 'true', ''))
        + text[place + 1 :]
    ).encode('latin-1')


def undo(before):
    for path, data in before.items():
        if path.is_dir():
            path.rmdir()
        path.write_bytes(data)


def answers(call):
    """Whether a call comes back; a `UserError` does not, and anything else is a failure."""
    try:
        call()
    except UserError:
        return False
    return True


def test_a_damaged_file_is_noticed_and_never_a_traceback(stages):
    whole, store = stages
    rng = random.Random(0)
    readers = {name: read for name, (_, read) in WRITERS.items()} | {'prepare': read_prepared}
    chain, noticed = Chain(whole, store), 0
    named = {name: chain.done(name).get('files', {}) for name in readers}
    for case in range(CASES):
        name = rng.choice(sorted(readers))
        folder, after = chain.folder(name), chain.folder(f'after_{name}')
        files = sorted(path for path in folder.rglob('*') if path.is_file())
        path = rng.choice(files)
        before = harm(rng, path, files)
        where = f'case {case}: {path}'
        changed = [at for at, data in before.items() if not at.is_file() or at.read_bytes() != data]
        must = any(at.relative_to(folder).as_posix() in named[name] for at in changed)
        try:
            answers(lambda name=name, folder=folder: readers[name](folder))
            answers(lambda: gather_cost(Chain(whole[: len(readers)], store), {}))
            used = answers(lambda name=name: Chain(whole, store).run([f'after_{name}'], {}))
            handed = answers(lambda name=name: Chain(whole, store).check([name]))
        except Exception as error:
            raise AssertionError(f'{where}: {type(error).__name__}: {error}') from error
        assert not (must and (used or handed)), (
            f'{where}: was changed, and used as if nothing had happened'
        )
        noticed += must
        shutil.rmtree(after, ignore_errors=True)
        undo(before)
    Chain(whole, store).check(list(readers))
    assert noticed > CASES // 2
    assert all(DONE not in files for files in named.values())


def test_what_done_says_is_checked_before_the_report_adds_it_up(stages):
    whole, store = stages
    made = Chain([stage for stage in whole if not stage.name.startswith('after_')], store)
    file = made.folder('teacher') / DONE
    before = file.read_text()
    told = msgspec.to_builtins(gather_cost(made, {'teacher': False}).stages['teacher'])
    assert told == json.loads(before)['cost'] | {'reused': False}
    for place, value in (
        (place, value)
        for place in (('cost',), ('cost', 'seconds'), ('settings',), ('files',))
        for value in (3, [], None, -1.5)
    ):
        done = json.loads(before)
        part = done if len(place) == 1 else done['cost']
        part[place[-1]] = value
        valid = place[-1] == 'seconds' and value == 3
        file.write_text(json.dumps(done))
        assert answers(lambda: gather_cost(made, {})) == valid, (place, value)
    file.write_text(before.replace('"settings": {}', '"settings": {"objective": "contrast"}'))
    assert describe_encoder(made.folder('teacher'))['encoder'] == 'teacher (resnet)'
    file.write_text(before)


def test_every_field_of_every_file_is_checked(stages):
    """Each in turn is of another type, then missing; a table's facts are the method's own."""
    whole, store = stages
    chain = Chain(whole, store)
    readers = {name: read for name, (_, read) in WRITERS.items()} | {'prepare': read_prepared}
    checked = 0
    for name, read in readers.items():
        ours = [
            *chain.folder(name).glob('*.json'),
            *chain.folder(name).glob('truth/*.json'),
            *chain.folder(name).glob('attacker/*.json'),
        ]
        for path in sorted(path for path in ours if path.name not in ('findings.json', DONE)):
            before = path.read_text()
            for field, value in json.loads(before).items():
                for other in ({'wrong': 3} if isinstance(value, list) else ['wrong'], None):
                    facts = json.loads(before)
                    facts.pop(field)
                    path.write_text(json.dumps(facts | ({field: other} if other else {})))
                    with pytest.raises(UserError, match=path.name):
                        read(chain.folder(name))
                    checked += 1
            path.write_text(before)
    assert checked > 100
