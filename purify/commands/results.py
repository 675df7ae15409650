"""Finished stages -> results.json, the table in the terminal, the HTML report; many runs -> one table."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from purify.attacker.manifest import Manifest
from purify.core.errors import UserError
from purify.core.files import read_json, write_json
from purify.core.progress import say
from purify.core.writers import Writer, read_rows
from purify.data.loader import Split
from purify.engine.chain import Chain
from purify.engine.tables import read_table
from purify.evaluation.clean_images import Originals
from purify.evaluation.copies import read_replication
from purify.evaluation.dissect import aims, read_dissection
from purify.evaluation.feature_map import read_atlas
from purify.evaluation.illustrate import read_illustration
from purify.evaluation.report_pictures import show_copies, show_groups
from purify.evaluation.truth import forget, is_known, withhold
from purify.report.detection import FOUND, list_detection
from purify.report.page import write_report, write_table
from purify.report.results import Numbers, Point, Results
from purify.report.tables import collect, print_before_after, to_markdown
from purify.report.tracking import list_numbers, make_sheets
from purify.stages.provenance import describe
from purify.train.cost import Spent

POINT_FILE = 'point.json'


def conclude(
    workdir: Path,
    config: dict[str, Any],
    chain: Chain,
    environment: Mapping[str, Any],
    *,
    reused: Mapping[str, bool] | None = None,
    writers: Sequence[Writer] = (),
) -> None:
    """Writes results.json and report/, tells the writers, prints the before/after table, what was found, and where the report is.

    `environment` is what the run recorded of itself; `reused` says which stages this start did not run (None: all).
    """
    results = gather(config, chain, reused or {})
    write_json(workdir / 'results.json', results)
    for writer in writers:
        writer.conclude(list_numbers(results), make_sheets(results))
    known = results['truth_known']
    shown = samples(chain, config['run']['report_images'], known=known)
    pictures = read_illustration(chain.folder('illustrate')) if chain.finished('illustrate') else None
    atlas = read_atlas(chain.folder('atlas')) if chain.finished('atlas') else None
    single = pictures, atlas, show_groups(chain), show_copies(chain)
    told = single if known else map(forget, single)
    page = write_report(workdir / 'report', results, curves(chain), shown, environment, *told)
    print_before_after(results, Console())
    for name, value, meaning in list_detection(results):
        if name in FOUND:
            say(f'{name.lower()}: {value}; {meaning}')
    say(f'report: {page}')


def gather(config: dict[str, Any], chain: Chain, reused: Mapping[str, bool]) -> dict[str, Any]:
    """What results.json holds (`purify.report.results`); its keys are fixed.

    Where nobody knows the truth about the data, numbers that need it are None.
    """
    manifest = Manifest.read(chain.folder('prepare') / 'truth')
    rule, facts = config['attack'], manifest.facts
    numbers = read_json(chain.folder('evaluate') / 'numbers.json', Numbers)
    findings, known = _facts(chain), is_known(config, facts)
    results = {
        'version': 1,
        'name': config['name'],
        'config': config['name'],
        'seeds': config['seeds'],
        'truth_known': known,
        'attack': {
            **{name: rule[name] for name in ('name', 'target', 'rate', 'scheme', 'poison_first', 'random_poisoning')},
            'targets': true_targets(facts),
            'rate_base': rule['base'],
            'poisoned': facts['poisoned_images'],
            'cover': facts['cover_images'],
            'copies': facts['added_copies'],
            'train_images': facts['train_images'],
            'test_images': facts['test_images'],
            'digest': facts['digest'],
        },
        'defense': config.get('defense', {'name': 'none'}),
        'trusted': _trusted(chain),
        'classes': facts['class_names'],
        'verdict': (findings or {}).get('verdict'),
        **numbers,
        'dissection': read_dissection(chain.folder('dissect'))[0] if chain.finished('dissect') else None,
        'replication': read_replication(chain.folder('replicate'))[0] if chain.finished('replicate') else None,
        'findings': findings,
        'prior': _provenance(config, chain),
        'cost': gather_cost(chain, reused),
    }
    return results if known else withhold(results)


def gather_cost(chain: Chain, reused: Mapping[str, bool]) -> dict[str, Any]:
    """What all stages cost, each and together. Raises `UserError` where one is not finished, as the sum would be too small."""
    if missing := chain.unfinished():
        raise UserError(f'{chain.store}: {", ".join(missing)} is not finished, so nobody knows what the run costs. Run all stages.')
    spent: dict[str, Spent] = {name: chain.done(name)['cost'] for name in chain.stages}
    return {
        'stages': {name: {**cost, 'reused': reused.get(name, True)} for name, cost in spent.items()},
        'seconds': sum(cost['seconds'] for cost in spent.values()),
        'device_seconds': sum(cost['device_seconds'] for cost in spent.values()),
        'network_calls': sum(cost.get('network_calls') or 0 for cost in spent.values()) or None,
    }


def true_targets(facts: dict[str, Any]) -> list[int]:
    """The classes that the poison aims at, in order, from the facts of a manifest; none where nothing is poisoned."""
    return aims(facts) if facts['poisoned_images'] else []


def _trusted(chain: Chain) -> dict[str, int] | None:
    """How many clean images the defence was handed; None where no stage asked for any."""
    if not any('trusted' in (source.stage for source in stage.inputs.values()) for stage in chain.stages.values()):
        return None
    images = read_table(chain.folder('trusted')).facts.get('images')
    if type(images) is not int:
        raise UserError(f'{chain.folder("trusted")}: does not say how many images it holds. Delete it and run again.')
    return {'images': images}


def _facts(chain: Chain) -> dict[str, Any] | None:
    """What the method itself says of its verdicts."""
    found = chain.stages['evaluate'].inputs.get('findings')
    return read_table(chain.path(found)).facts if found else None


def _provenance(config: dict[str, Any], chain: Chain) -> dict[str, str] | None:
    """What is known of the prior that a stage of the method used."""
    uses = [stage.inputs['prior'] for stage in chain.stages.values() if 'prior' in stage.inputs]
    return describe(chain.path(uses[0]), config) if uses else None


def curves(chain: Chain) -> dict[str, list[dict[str, Any]]]:
    """Rows of metrics by stage, from the folders of the stages, whose files are checked; those of a work folder are a copy."""
    found = {name: read_rows(chain.folder(name) / 'metrics.jsonl') for name in chain.stages if chain.finished(name)}
    return {name: rows for name, rows in found.items() if rows}


def samples(chain: Chain, count: int, *, known: bool = True) -> list[dict[str, Any]]:
    """Up to `count` images for the report, half poisoned and half clean: original, as given, purified.

    Where the truth is not `known`, those that the method flagged come first and stand for the poisoned ones, with neither original
    nor true label. `label_after` is the class's name, 'dropped', or None where the method says nothing of labels.
    """
    prepared = chain.folder('prepare')
    manifest = Manifest.read(prepared / 'truth')
    given = Split(prepared / 'poisoned', 'train')
    before = Originals(given, prepared / 'truth')
    source = chain.stages['evaluate'].inputs.get('purified')
    purified = Split(chain.path(source), 'train') if source else None
    names, found, after = given.class_names, [], _labels_after(chain, given.class_names)
    kinds = {'poisoned': manifest.poisoned, 'clean': ~manifest.poisoned} if known else _kinds_found(chain, manifest.ids)
    for (kind, own), most in zip(kinds.items(), ((count + 1) // 2, count // 2), strict=True):
        for row in np.flatnonzero(own)[:most].tolist():
            identity = int(manifest.ids[row])
            position = int(given.position_of(np.array([identity]))[0])
            found.append(
                {
                    'id': identity,
                    'kind': kind,
                    'original': before[position] if known else None,
                    'poisoned': given[position]['image'],
                    'purified': _image(purified, identity) if purified and identity in purified.ids else None,
                    'true_label': names[manifest.true_labels[row]] if known else None,
                    'given_label': names[manifest.given_labels[row]],
                    'label_after': after.get(identity),
                }
            )
    return found


def _kinds_found(chain: Chain, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Which of those images the method flagged, and which are others, bool[n] each."""
    source = chain.stages['evaluate'].inputs.get('findings')
    flagged = read_table(chain.path(source)).of(ids, 'flagged', False) if source else np.zeros(len(ids), np.bool_)
    return {'flagged': flagged, 'other': ~flagged}


def _labels_after(chain: Chain, names: list[str]) -> dict[int, str]:
    """What label each image has after the method, by id: a class's name or 'dropped'; none where its findings hold no labels."""
    source = chain.stages['evaluate'].inputs.get('findings')
    columns = read_table(chain.path(source)).columns if source else {}
    if 'labels' not in columns:
        return {}
    ids, labels = columns['ids'].tolist(), columns['labels'].tolist()
    keep = columns.get('keep', np.ones(len(ids), np.bool_)).tolist()
    return {ids[i]: names[labels[i]] if keep[i] else 'dropped' for i in range(len(ids))}


def _image(split: Split, identity: int) -> np.ndarray:
    return split[int(split.position_of(np.array([identity]))[0])]['image']


def collect_runs(folder: Path) -> Path:
    """All finished runs below `folder` -> table.md, table.csv, table.html there; prints the first.

    A run's point is its point.json where a sweep left one, else its name. A run whose files are damaged is named and left out.
    """
    runs = list(_read_runs(folder))
    if not runs:
        raise UserError(f'{folder}: no finished run (a readable results.json) here or below.')
    rows = collect(runs)
    write_table(folder, rows)
    print(to_markdown(rows).encode('utf-8', 'replace').decode('utf-8'))  # names may hold what is no text
    return folder / 'table.html'


def _read_runs(folder: Path) -> Iterator[tuple[dict[str, Any], int, Results]]:
    """(point, seed, results) of every run below the folder."""
    for path in sorted(folder.rglob('results.json')):
        beside = path.parent / POINT_FILE
        try:
            results = read_json(path, Results, cure=f'Write it again with `purify report --workdir {path.parent}`.')
            if beside.exists():
                point = read_json(beside, Point, cure='Start the sweep again, which writes it.')
                yield point['point'], point['seed'], results
            else:
                yield {'run': str(path.parent.relative_to(folder))}, results['seeds']['model'], results
        except UserError as error:
            say(f'left out: {error}')
