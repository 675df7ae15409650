"""The stage `prepare`: source -> poisoned dataset, and beside it, under lock and key, the truth about it."""

import concurrent.futures
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purify.attacks.attack import Attack
from purify.core import devices, preemption
from purify.core.files import write_json
from purify.core.progress import Bar
from purify.data.builders import DatasetWriter, cut, describe
from purify.data.loader import Record
from purify.data.manifest import Manifest
from purify.data.poison import poison_records
from purify.data.sources import Pool, Source, open_source
from purify.pipelines.chain import Work
from purify.pipelines.poisoning import (
    FILES,
    Plot,
    check_target,
    digest_of,
    draw_plot,
    keep_files,
    loader_facts,
    make_attacks,
    make_rules,
    on_the_fly,
    refuse_loader,
)

FITTED = ('trigger', 'surrogate')  # stages of the attacker that a fitted attack comes from
STAMPED_AT_ONCE = 32


def prepare(work: Work) -> None:
    """Fills poisoned/ (split train), truth/ (manifest, clean test split, originals of the poisoned images), reference/.

    A trigger fitted in this run comes as the input `trigger`, a classifier that an attack needs as `surrogate`; what the
    attack was made from is copied to truth/files. Where the attacker poisons in his own loader (`poison_first` false or
    `random_poisoning`), attacker/ holds the clean training images and his rule; poisoned/ is then the snapshot that a
    defence gets.
    """
    settings, seed = work.settings, work.settings['seed']
    rule = settings['attack']
    source = _open(settings)
    check_target(rule, len(source.class_names))
    folders = {role: work.inputs.get(role) for role in FITTED}
    attacks = make_attacks(rule, seed, len(source.class_names), **folders)
    refuse_loader(rule, fitted=any(getattr(attack, 'load', '') for attack in attacks))
    for attack in attacks:
        attack.stamp(source.train.fetch(0), 0)  # a patch that does not fit is known now, not after an hour
    digest = digest_of(attacks)
    rules = make_rules(rule)
    plot = draw_plot(source.train, rule, rules, seed)
    roles, classes = plot.roles, len(source.class_names)
    loader = loader_facts(rule, seed, rules, plot, classes) if on_the_fly(rule) else None

    def poisoned(records: list[Record]) -> list[Record]:
        return poison_records(attacks, records, [roles.get(record['id']) for record in records])

    hit = np.flatnonzero(np.isin(plot.pool.ids, sorted(roles)))
    writing = _Writing(work, source)
    writing.add('poisoned', plot.pool, 'train', poisoned)
    writing.add('truth/test', source.test, 'test')
    if len(hit):
        writing.add('truth/originals', plot.pool.take(hit), 'train')
    if source.reference:
        writing.add('reference', source.reference, 'train')
    if loader:
        writing.add('attacker/clean', plot.pool, 'train')
    writing.finish()
    if devices.is_lead():
        _write_truth(work.folder, settings, source, attacks, plot, digest)
        keep_files(attacks, work.folder / 'truth' / FILES)
        if loader:
            write_json(work.folder / 'attacker' / 'loader.json', loader)
            keep_files(attacks, work.folder / 'attacker' / FILES)


def write_clean(work: Work) -> None:
    """Fills clean/ (split train): the training images as they come, for an attacker who fits his trigger to them."""
    source = _open(work.settings)
    writing = _Writing(work, source)
    writing.add('clean', source.train, 'train')
    writing.finish()


def _open(settings: dict[str, Any]) -> Source:
    """Opens the source, process 0 first: it downloads, the others find it there."""
    if devices.is_lead():
        source = open_source(**settings['source'])
        devices.barrier('source')
        return source
    devices.barrier('source')
    return open_source(**settings['source'])


class _Writing:
    """Several splits at once, their shards spread over hosts and threads."""

    def __init__(self, work: Work, source: Source):
        self.work, self.source = work, source
        self.size = work.settings['source']['size_px'], work.settings['source']['channels']
        self.jobs: list[tuple[DatasetWriter, list[range], Callable[[range], Iterator[dict[str, Any]]]]] = []

    def add(self, sub: str, pool: Pool, split: str, change: Callable[..., Any] | None = None) -> None:
        ranges = cut(len(pool), self.work.settings['shard_size'])
        features = describe(*self.size, self.source.class_names)
        writer = DatasetWriter(self.work.folder / sub, Path(sub).name, split, features, len(ranges))

        def records(positions: range) -> Iterator[dict[str, Any]]:
            for start in range(0, len(positions), STAMPED_AT_ONCE):
                preemption.check()
                piece = positions[start : start + STAMPED_AT_ONCE]
                rows = [{'id': int(pool.ids[i]), 'image': pool.fetch(i), 'label': int(pool.labels[i])} for i in piece]
                yield from change(rows) if change else rows

        self.jobs.append((writer, ranges, records))

    def finish(self) -> None:
        total = sum(len(r) for _, ranges, _ in self.jobs for r in ranges)
        mine = range(jax.process_index(), max(len(ranges) for _, ranges, _ in self.jobs), jax.process_count())
        threads = concurrent.futures.ThreadPoolExecutor(self.work.run['threads'])
        with Bar(self.work.name, total, shown=devices.is_lead()) as bar, threads as pool:
            waiting = {}
            for writer, ranges, records in self.jobs:
                for shard in set(mine) & set(writer.pending()):
                    waiting[pool.submit(writer.write, shard, records(ranges[shard]))] = len(ranges[shard])
            try:
                for future in concurrent.futures.as_completed(waiting):
                    future.result()
                    bar.advance(waiting[future])
                    self.work.cost.images += waiting[future]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        devices.barrier(f'{self.work.name} written')
        if devices.is_lead():
            for writer, ranges, _ in self.jobs:
                writer.finish([len(r) for r in ranges])


def _write_truth(
    folder: Path, settings: dict[str, Any], source: Source, attacks: Sequence[Attack], plot: Plot, digest: str
) -> None:
    order = np.argsort(plot.pool.ids)
    ids, labels = plot.pool.ids[order], plot.pool.labels[order]
    given, trigger = labels.copy(), np.full(len(ids), -1, np.int32)
    hit, cover = (np.isin(ids, np.concatenate(groups)) for groups in (plot.poisoned, plot.covering))
    for which, attack in enumerate(attacks):
        trigger[np.isin(ids, np.concatenate([plot.poisoned[which], plot.covering[which]]))] = which
        own = hit & (trigger == which)
        given[own] = [attack.relabel(int(label)) for label in labels[own]]
    facts = {
        'attack': settings['attack'],
        'digest': digest,
        'seed': settings['seed'],
        'train_images': len(ids),
        'test_images': len(source.test),
        'poisoned_images': int(hit.sum()),
        'cover_images': int(cover.sum()),
        'added_copies': int((plot.copy_of >= 0).sum()),
        'class_names': source.class_names,
    }
    Manifest(ids, labels, given, hit, cover, trigger, plot.copy_of[order], facts).write(folder / 'truth')
