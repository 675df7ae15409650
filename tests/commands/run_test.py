import argparse
import dataclasses
import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.tiny import ROOT, quickstart, write_pictures

from purify.commands import record as recording
from purify.commands import report
from purify.commands import run as running
from purify.commands.call import Call
from purify.commands.plan import make_stages
from purify.config.load import load_config
from purify.core.errors import UserError
from purify.core.files import fingerprint, write_json
from purify.data import loader
from purify.engine.chain import Chain
from purify.engine.stage import Input, Stage
from purify.evaluation.results import prior_facts
from purify.models.files.hub import EMBEDDED
from purify.stages.provenance import mark_of


def make_chain(folder, **handed):
    """Stages of a method whose benign model, or verdicts, come from a step of another name."""

    def stage(name, inputs=None):
        return Stage(name, lambda work: write_json(work.folder / 'here.json', {}), {}, inputs or {})

    names = ('teacher', 'benign', 'isolated', 'finetuned', 'verdicts', 'student')
    inputs = {role: Input(step) for role, step in handed.items()}
    chain = Chain([*map(stage, names), stage('evaluate', inputs)], folder)
    chain.run(list(chain.stages), {})
    return chain


def links(workdir):
    return {
        path.name: path.resolve().name.partition('-')[0]
        for path in workdir.iterdir()
        if path.is_symlink()
    }


def test_links_show_what_the_method_hands_over(tmp_path):
    workdir = tmp_path / 'run'
    workdir.mkdir()
    chain = make_chain(tmp_path / 'stages', benign='finetuned', findings='isolated')
    running.link_stages(workdir, chain)
    usual = {'teacher': 'teacher', 'student': 'student'}
    assert links(workdir) == usual | {'benign': 'finetuned', 'verdicts': 'isolated'}
    # the same folder with other settings
    running.link_stages(workdir, make_chain(tmp_path / 'stages', findings='verdicts'))
    assert links(workdir) == usual | {'verdicts': 'verdicts'}


def test_a_full_disk_while_links_are_made_is_the_user_s_error(tmp_path, monkeypatch):
    def full(link, target, **options):
        raise OSError(errno.ENOSPC, 'No space left on device', str(link))

    chain = make_chain(tmp_path / 'stages')
    (tmp_path / 'run').mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, 'symlink_to', full)
        said = r'the disk is full.*What is finished is kept.*same command'
        with pytest.raises(UserError, match=said):
            running.link_stages(tmp_path / 'run', chain)
    running.link_stages(tmp_path / 'run', chain)
    assert links(tmp_path / 'run')


def test_metrics_of_a_stage_are_put_together_whatever_bytes_they_are(tmp_path):
    chain = make_chain(tmp_path / 'stages')
    (tmp_path / 'run').mkdir()
    (chain.folder('teacher') / 'metrics.jsonl').write_bytes(b'\xff\xfe')
    (chain.folder('student') / 'metrics.jsonl').write_bytes(b'{"stage": "student", "step": 1}\n')
    running.link_stages(tmp_path / 'run', chain)
    found = (tmp_path / 'run' / 'metrics.jsonl').read_bytes()
    assert found == b'\xff\xfe{"stage": "student", "step": 1}\n'


CONFIG = {'name': 'x', 'seeds': {'model': 0}, 'run': {'workers': 0}}


def record(workdir, config, chain):
    (workdir / 'results.json').write_text('{}')
    (workdir / 'wandb_id').write_text('abcd1234')
    running.record_run(workdir, config, ['words'], chain)
    return {name for name in ('results.json', 'wandb_id') if (workdir / name).exists()}


@pytest.mark.parametrize(
    ('before', 'kept'),
    [
        (CONFIG, {'results.json', 'wandb_id'}),
        (CONFIG | {'run': {'workers': 4}}, {'wandb_id'}),  # the same results, which are told anew
        (CONFIG | {'seeds': {'model': 1}}, set()),
        ([1], set()),
        ('damaged', set()),
    ],
)
def test_what_other_settings_left_is_removed(tmp_path, before, kept):
    chain = make_chain(tmp_path / 'stages')
    workdir = tmp_path / 'run'
    workdir.mkdir()
    (workdir / 'config.json').write_text('{"cut' if before == 'damaged' else json.dumps(before))
    assert record(workdir, CONFIG, chain) == kept
    assert json.loads((workdir / 'config.json').read_text()) == CONFIG
    assert recording.read_record(workdir)[0] == CONFIG


def test_a_folder_in_the_place_of_the_results_is_said(tmp_path):
    chain = make_chain(tmp_path / 'stages')
    (tmp_path / 'run' / 'results.json').mkdir(parents=True)
    write_json(tmp_path / 'run' / 'config.json', CONFIG | {'name': 'y'})
    with pytest.raises(UserError, match=r'cannot be made|cannot write here'):
        running.record_run(tmp_path / 'run', CONFIG, [], chain)


def write_record(folder, **changes):
    known = {'command': 'c', 'store': str(folder), 'fingerprints': {}}
    known |= {'settings': fingerprint(CONFIG)}
    write_json(folder / 'config.json', CONFIG)
    (folder / 'environment.json').write_text(json.dumps(known | changes))


def test_records_of_older_versions_are_read(tmp_path):
    write_record(tmp_path)
    known = json.loads((tmp_path / 'environment.json').read_text())
    del known['settings']
    write_json(tmp_path / 'environment.json', known)
    assert recording.read_record(tmp_path) == (CONFIG, known)


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'store': 5}, r'environment\.json: .*`\$\.store`'),
        ({'fingerprints': ['a']}, r'environment\.json: .*`\$\.fingerprints`'),
        ({'fingerprints': {'a': 1}}, r'environment\.json: .*`\$\.fingerprints'),
        ({'fingerprints': {'a': '../../../etc'}}, r'environment\.json: .*`\$\.fingerprints'),
        ({'command': None}, r'environment\.json: .*`\$\.command`'),
        ({'settings': '0'}, r'config\.json: not the config that environment\.json is about'),
    ],
)
def test_records_of_another_form_are_refused(tmp_path, changes, said):
    write_record(tmp_path, **changes)
    with pytest.raises(UserError, match=said):
        recording.read_record(tmp_path)


def finished_run(workdir):
    """A run whose stages are all finished and hold nothing."""
    config, store = quickstart('defense=none'), workdir / 'stages'
    empty = [dataclasses.replace(stage, run=lambda work: None) for stage in make_stages(config)]
    chain = Chain(empty, store)
    chain.run(list(chain.stages), {})
    running.record_run(workdir, config, [], chain)
    return chain


def call_report(workdir):
    return report.command(Call(argparse.Namespace(workdir=workdir), [], []))


@pytest.mark.parametrize('how', ['no folder', 'not finished', 'another fingerprint'])
def test_a_report_of_a_run_that_is_not_whole_is_refused(tmp_path, how):
    chain = finished_run(tmp_path)
    if how == 'no folder':
        shutil.rmtree(chain.folder('teacher'))
    elif how == 'not finished':
        (chain.folder('teacher') / 'DONE').unlink()
    else:
        environment = json.loads((tmp_path / 'environment.json').read_text())
        environment['fingerprints']['teacher'] = '0' * 12
        write_json(tmp_path / 'environment.json', environment)
    with pytest.raises(
        UserError,
        match=(
            r'the run is not finished: .*/stages holds no finished teacher of it\. Start its'
            r' command again'
        ),
    ):
        call_report(tmp_path)


def test_a_report_of_a_stage_that_this_version_does_not_make_is_refused(tmp_path):
    finished_run(tmp_path)
    environment = json.loads((tmp_path / 'environment.json').read_text())
    environment['fingerprints']['retired'] = '0' * 12
    write_json(tmp_path / 'environment.json', environment)
    said = 'knows the stages retired, which this version does not make'
    with pytest.raises(UserError, match=said):
        call_report(tmp_path)


def test_a_run_concludes_only_when_all_its_stages_are_finished(tmp_path, monkeypatch, capsys):
    chain = finished_run(tmp_path)
    concluded = []
    monkeypatch.setattr(running, 'conclude', lambda *args, **options: concluded.append(1))
    names = list(chain.stages)
    running.run(quickstart('defense=none'), [], tmp_path, None, names)
    assert concluded == [1]
    shutil.rmtree(chain.folder('teacher'))
    running.run(quickstart('defense=none'), [], tmp_path, None, ['prepare'])
    assert concluded == [1]
    assert 'no results yet: teacher of this config' in capsys.readouterr().err


def test_stages_keep_as_many_decoded_images_as_a_training_may_hold(tmp_path, monkeypatch):
    seen, before = set(), loader._may_keep

    def look(*given):
        seen.add(loader._may_keep)
        return {}

    monkeypatch.setattr(Chain, 'run', look)
    config = quickstart('defense=none')
    for mib, kept in ((0, 0), (3, 3 * 2**20), (4096, loader.CACHE_BYTES)):
        seen.clear()
        config['run']['resident_mb'] = mib
        running.run(config, [], tmp_path, None, ['prepare'])
        assert seen == {kept}
    assert loader._may_keep == before


@pytest.mark.parametrize('words', ['attack=lira,defense=none', 'attack=patch', 'attack=none'])
@pytest.mark.parametrize('only', [(), ('prepare', 'student'), ('teacher',)])
def test_stages_run_in_their_order_whatever_comes_before_prepare(
    words, only, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(Chain, 'run', lambda chain, names, *rest: asked.extend(names) or {})
    monkeypatch.setattr(running, '_check_first', lambda config: None)
    config = quickstart(words)
    names = [stage.name for stage in make_stages(config)]
    only = [name for name in only if name in names]
    running.run(config, [], tmp_path, None, only)
    assert asked == [name for name in names if not only or name in only]


@pytest.mark.parametrize(
    'words',
    [
        'quickstart.py:source=arrays:{}',
        'castle_walls.py:setting=cifar10_small,source=arrays:{}',
    ],
)
def test_a_run_says_at_once_that_its_prior_has_seen_the_images(
    words, tmp_path, monkeypatch, capsys
):
    """One that is loaded, and one that a generator starts from."""
    (tmp_path / 'data').mkdir()
    folder = write_pictures(tmp_path / 'data', 80, 20)
    prior = shutil.copytree(EMBEDDED['photos32'], tmp_path / 'photos32')
    with np.load(folder / 'train.npz') as data:
        images = data['images']
    monkeypatch.setitem(EMBEDDED, 'photos32', prior)
    monkeypatch.setattr(running, '_check_first', lambda config: None)
    whole = [f'--config.source.{name}=0' for name in ('skip', 'train_size', 'test_size')]
    config = load_config(f'{ROOT}/configs/{words.format(folder)}', whole)
    run, said = Chain.run, []

    def first_alone(chain, names, *rest):
        said.append(capsys.readouterr().err)
        return run(chain, names, *rest) if 'prepare' in names else {}

    monkeypatch.setattr(Chain, 'run', first_alone)
    for seen in (images, 255 - images):
        write_json(prior / 'seen.json', {'images': 80, 'marks': list(map(mark_of, seen))})
        running.run(config, [], tmp_path / 'run', None, [])
        before, after = said[-2:]
        warning = 'trained on some of these very images'
        assert warning not in before
        assert (warning in after) == (seen is images)
        told = prior_facts(config, Chain(make_stages(config), tmp_path / 'run' / 'stages'))
        assert told
        assert told.kind == 'embedded'
        assert (warning in told.warning) == (seen is images)


def test_a_config_of_before_generators_had_a_revision_still_has_its_stages():
    """As `report` reads it from an old run."""
    config = load_config(f'{ROOT}/configs/castle_walls.py:setting=digits,init_from=digits')
    assert config['defense']['generator'].pop('revision') == ''
    stages = {stage.name: stage for stage in make_stages(config)}
    assert stages['generator'].inputs['init'].outside == EMBEDDED['digits']


def test_an_unknown_user_s_folder_is_the_user_s_error(tmp_path):
    place = Path('~nobody-of-that-name/x')
    with pytest.raises(UserError, match='Write the path out in full'):
        call_report(place)
    with pytest.raises(UserError, match='Write the path out in full'):
        running.run(CONFIG, [], place, None, ())
