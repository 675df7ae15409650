"""Gathers from finished stages what results.json holds and the report shows."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec
import numpy as np
from msgspec import UNSET
from msgspec.structs import asdict, replace

from purify.attacker.manifest import Manifest
from purify.core.errors import UserError
from purify.core.types import Settings
from purify.core.writers import read_rows
from purify.data.loader import Split
from purify.engine.chain import Chain
from purify.engine.stage import Input, Stage
from purify.engine.tables import read_table
from purify.evaluation.clean_images import CleanImages
from purify.evaluation.dissect import aims
from purify.evaluation.feature_map import read_map
from purify.evaluation.illustrate import read_illustration
from purify.evaluation.report_pictures import show_copies, show_groups
from purify.evaluation.truth import forget, is_known, withhold
from purify.report.dissection import Dissection, Replication
from purify.report.findings import Verdict
from purify.report.results import (
    AttackFacts,
    Numbers,
    PriorFacts,
    Results,
    RunCost,
    Seeds,
    StageCost,
    TrustedImages,
    read_typed,
)
from purify.report.run import Finished, Metrics, Sample
from purify.stages.provenance import describe_prior, warn_of_seen, worst
from purify.train.cost import Spent

T = TypeVar('T')
MARKED_IMAGES = 50_000  # that are looked through for those which an embedded prior has seen
RARE = ('repaired', 'guarded')  # left out of results.json where there is none


def gather(config: Settings, chain: Chain, reused: Mapping[str, bool]) -> Results:
    """Gathers what results.json holds.

    Where nobody knows the truth about the data, numbers that need it are None.
    """
    manifest = Manifest.read(chain.folder('prepare') / 'truth')
    numbers = read_typed(chain.folder('evaluate') / 'numbers.json', Numbers)
    findings, known = _facts(chain), is_known(config, manifest.facts)
    results = Results(
        version=1,
        name=config['name'],
        config=config['name'],
        seeds=Seeds(**config['seeds']),
        truth_known=known,
        attack=_attack(config['attack'], manifest.facts),
        defense=config.get('defense', {'name': 'none'}),
        trusted=count_trusted(chain),
        classes=manifest.facts['class_names'],
        verdict=msgspec.convert((findings or {}).get('verdict'), Verdict | None),
        dissection=_numbers(chain, 'dissect', Dissection),
        replication=_numbers(chain, 'replicate', Replication),
        findings=findings,
        prior=prior_facts(config, chain),
        cost=gather_cost(chain, reused),
        **asdict(replace(numbers, **{name: getattr(numbers, name) or UNSET for name in RARE})),
    )
    return results if known else withhold(results)


def gather_run(results: Results, config: Settings, chain: Chain, environment: Settings) -> Finished:
    """Gathers all that the report shows of a run, without what nobody knows."""
    known, illustrated = results.truth_known, chain.finished('illustrate')
    pictures = read_illustration(chain.folder('illustrate')) if illustrated else None
    mapped = read_map(chain.folder('atlas')) if chain.finished('atlas') else None
    single = pictures, mapped, show_groups(chain), show_copies(chain)
    single = single if known else map(forget, single)
    shown = samples(chain, config['run']['report_images'], known=known)
    return Finished(results, curves(chain), shown, environment, *single)


def gather_cost(chain: Chain, reused: Mapping[str, bool]) -> RunCost:
    """Sums up what the stages cost, each and together.

    Raises `UserError` where one is not finished, as the sum would be too small.
    """
    if missing := chain.unfinished():
        raise UserError(
            f'{chain.store}: {", ".join(missing)} is not finished, so nobody knows what the run'
            ' costs. Run all stages.'
        )
    spent: dict[str, Spent] = {name: chain.done(name)['cost'] for name in chain.stages}
    whole = {name: cost | {'reused': reused.get(name, True)} for name, cost in spent.items()}
    return RunCost(
        stages=msgspec.convert(whole, dict[str, StageCost]),
        seconds=sum(cost['seconds'] for cost in spent.values()),
        device_seconds=sum(cost['device_seconds'] for cost in spent.values()),
        network_calls=sum(cost.get('network_calls') or 0 for cost in spent.values()) or None,
    )


def _attack(rule: Settings, facts: Settings) -> AttackFacts:
    """What the config asks for, and what the manifest says was done."""
    said = ('name', 'target', 'rate', 'scheme', 'poison_first', 'random_poisoning')
    return AttackFacts(
        **{name: rule[name] for name in said},
        targets=true_targets(facts),
        rate_base=rule['base'],
        poisoned=facts['poisoned_images'],
        cover=facts['cover_images'],
        copies=facts['added_copies'],
        train_images=facts['train_images'],
        test_images=facts['test_images'],
        digest=facts['digest'],
    )


def _numbers(chain: Chain, name: str, kind: type[T]) -> T | None:
    """The numbers.json of that stage; None where the run has no such stage."""
    return read_typed(chain.folder(name) / 'numbers.json', kind) if chain.finished(name) else None


def true_targets(facts: Settings) -> list[int]:
    """Lists the classes that a manifest's attack aims at, ascending; none without poison."""
    return aims(facts) if facts['poisoned_images'] else []


def count_trusted(chain: Chain) -> TrustedImages | None:
    """Counts the clean images that the defence was handed; None where no stage asked for any."""
    read = [source.stage for stage in chain.stages.values() for source in stage.inputs.values()]
    if 'trusted' not in read:
        return None
    images = read_table(chain.folder('trusted')).facts.get('images')
    if type(images) is not int:
        raise UserError(
            f'{chain.folder("trusted")}: does not say how many images it holds. Delete it and run'
            ' again.'
        )
    return TrustedImages(images=images)


def _facts(chain: Chain) -> Settings | None:
    """What the method itself says of its verdicts."""
    found = chain.stages['evaluate'].inputs.get('findings')
    return read_table(chain.path(found)).facts if found else None


def prior_facts(config: Settings, chain: Chain) -> PriorFacts | None:
    """What is known of the prior of a run, or of those that its generators started from.

    It warns too if one of them has seen the images.
    """
    part = config.get('prior', {})
    named = part.get('load', ''), part.get('revision', '')
    used = [(chain.path(at), *named) for at in _inputs(chain, 'prior')[:1]]
    pixels = [stage for stage in chain.stages.values() if _trains_pixels(stage)]
    for stage in (stage for stage in pixels if stage.name != 'prior' and 'init' in stage.inputs):
        named = stage.settings['init_from'], stage.settings.get('revision', '')
        used.append((chain.path(stage.inputs['init']), *named))
    if not used:
        return None
    told = [describe_prior(*prior) for prior in used]
    warnings = dict.fromkeys([warn_of_seen_images(chain), *(prior['warning'] for prior in told)])
    return PriorFacts(
        kind=worst(prior['kind'] for prior in told),
        text=' '.join(dict.fromkeys(prior['text'] for prior in told)),
        warning=' '.join(filter(None, warnings)),
    )


def _inputs(chain: Chain, role: str) -> list[Input]:
    """The inputs of all stages in that role."""
    return [stage.inputs[role] for stage in chain.stages.values() if role in stage.inputs]


def _trains_pixels(stage: Stage) -> bool:
    """Whether a stage trains a diffusion model on pixels: its network has a size of images."""
    return 'sample_size' in stage.settings.get('network', {})


def warn_of_seen_images(chain: Chain) -> str:
    """Says so if a stage uses a finished prior that was trained on the run's images; else ''.

    The stage `prepare` is finished.
    """
    roles = ('prior', 'init', 'finished')
    inputs = [at.outside for role in roles for at in _inputs(chain, role) if at.outside]
    if not inputs:
        return ''
    split = Split(chain.folder('prepare') / 'poisoned', 'train')
    images = lambda: (split[row]['image'] for row in range(min(len(split), MARKED_IMAGES)))
    warnings = [warn_of_seen(folder, images) for folder in dict.fromkeys(inputs)]
    return ' '.join(filter(None, dict.fromkeys(warnings)))


def curves(chain: Chain) -> dict[str, Metrics]:
    """Reads the metrics of finished stages by stage, from their own folders, which are checked."""
    done = [name for name in chain.stages if chain.finished(name)]
    found = {name: read_rows(chain.folder(name) / 'metrics.jsonl') for name in done}
    return {name: rows for name, rows in found.items() if rows}


def samples(chain: Chain, count: int, *, known: bool = True) -> list[Sample]:
    """Shows up to `count` images, half poisoned and half clean: original, as given, purified.

    Where the truth is not `known`, those that the method flagged come first and stand for the
    poisoned ones, with neither original nor true label. `label_after` is the class's name,
    'dropped', or None where the method says nothing of labels.
    """
    prepared = chain.folder('prepare')
    manifest = Manifest.read(prepared / 'truth')
    given = Split(prepared / 'poisoned', 'train')
    before = CleanImages(given, prepared / 'truth')
    source = chain.stages['evaluate'].inputs.get('purified')
    purified = Split(chain.path(source), 'train') if source else None
    names, after = given.class_names, _labels_after(chain, given.class_names)
    found: list[Sample] = []
    kinds = {'poisoned': manifest.poisoned, 'clean': ~manifest.poisoned}
    kinds = kinds if known else _kinds_found(chain, manifest.ids)
    for (kind, own), most in zip(kinds.items(), ((count + 1) // 2, count // 2), strict=True):
        for row in np.flatnonzero(own)[:most].tolist():
            identity = int(manifest.ids[row])
            position = int(given.position_of(np.array([identity]))[0])
            there = purified and identity in purified.ids
            sample: Sample = {
                'id': identity,
                'kind': kind,
                'original': before[position] if known else None,
                'poisoned': given[position]['image'],
                'purified': _image(purified, identity) if purified and there else None,
                'true_label': names[manifest.true_labels[row]] if known else None,
                'given_label': names[manifest.given_labels[row]],
                'label_after': after.get(identity),
            }
            found.append(sample)
    return found


def _kinds_found(chain: Chain, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Which of those images the method flagged, and which are others, bool[n] each."""
    source = chain.stages['evaluate'].inputs.get('findings')
    flagged = np.zeros(len(ids), np.bool_)
    if source:
        flagged = read_table(chain.path(source)).of(ids, 'flagged', False)
    return {'flagged': flagged, 'other': ~flagged}


def _labels_after(chain: Chain, names: list[str]) -> dict[int, str]:
    """Each image's label after the method, by id, or 'dropped'; {} if the findings have none."""
    source = chain.stages['evaluate'].inputs.get('findings')
    columns = read_table(chain.path(source)).columns if source else {}
    if 'labels' not in columns:
        return {}
    ids, labels = columns['ids'].tolist(), columns['labels'].tolist()
    keep = columns.get('keep', np.ones(len(ids), np.bool_)).tolist()
    return {ids[i]: names[labels[i]] if keep[i] else 'dropped' for i in range(len(ids))}


def _image(split: Split, identity: int) -> np.ndarray:
    return split[int(split.position_of(np.array([identity]))[0])]['image']
