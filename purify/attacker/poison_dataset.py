"""The stage `prepare`: writes the poisoned dataset and, in a folder apart, the truth about it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from purify.attacker.attackers_loader import loader_facts, on_the_fly, refuse_loader
from purify.attacker.manifest import Manifest
from purify.attacker.poison_plan import (
    FILES,
    Poisoning,
    check_target,
    digest_of,
    draw_poisoning,
    keep_files,
    make_attacks,
    make_rules,
)
from purify.attacker.poison_records import Role, poison_records
from purify.attacks.attack import Attack
from purify.attacks.learned.fitted import STAMP_BATCH
from purify.core import devices, preemption
from purify.core.files import write_json
from purify.core.types import Settings
from purify.data.builders import make_features
from purify.data.loader import Record
from purify.data.sources.open_source import Pool, Source, open_source
from purify.engine.shards import Sink, dataset_sink, write_shards
from purify.engine.stage import Work

FITTED = ('trigger', 'surrogate')  # stages of the attacker that a fitted attack comes from


def poison_dataset(work: Work) -> None:
    """Writes the folders poisoned/, truth/ and, where the source has one, reference/.

    truth/ holds the manifest, the clean test split, the originals of poisoned images and, in files,
    what the attack was made from. A trigger fitted in this run comes as the input `trigger`, a
    classifier that an attack needs as `surrogate`. Where the attacker poisons in his own loader,
    attacker/ holds the clean images and his rule; poisoned/ is the snapshot that a defence gets.
    """
    settings, seed = work.settings, work.settings['seed']
    rule = settings['attack']
    source = _open(settings)
    check_target(rule, len(source.class_names))
    folders = {role: work.inputs.get(role) for role in FITTED}
    attacks = make_attacks(rule, seed, len(source.class_names), **folders)
    refuse_loader(rule, fitted=any(getattr(attack, 'load', '') for attack in attacks))
    for attack in attacks:
        attack.stamp(
            source.train.fetch(0), 0
        )  # a patch that does not fit is known now, not after an hour
    digest = digest_of(attacks)
    rules = make_rules(rule)
    poisoning = draw_poisoning(source.train, rule, rules, seed)
    roles, classes = poisoning.roles, len(source.class_names)
    loader = loader_facts(rule, seed, rules, poisoning, classes) if on_the_fly(rule) else None
    hit = np.flatnonzero(np.isin(poisoning.pool.ids, sorted(roles)))
    pool = poisoning.pool
    stamp = partial(poison_range, attacks, roles, pool)
    jobs = [_job(work, source, 'poisoned', pool, 'train', stamp)]
    jobs.append(_job(work, source, 'truth/test', source.test, 'test'))
    if len(hit):
        jobs.append(_job(work, source, 'truth/originals', pool.take(hit), 'train'))
    if source.reference:
        jobs.append(_job(work, source, 'reference', source.reference, 'train'))
    if loader:
        jobs.append(_job(work, source, 'attacker/clean', pool, 'train'))
    write_shards(work, jobs)
    source.notes.say_counts(f'source {settings["source"]["name"]}')
    if devices.is_lead():
        _write_truth(work.folder, settings, source, attacks, poisoning, digest)
        keep_files(attacks, work.folder / 'truth' / FILES)
        if loader:
            write_json(work.folder / 'attacker' / 'loader.json', loader)
            keep_files(attacks, work.folder / 'attacker' / FILES)


def write_clean(work: Work) -> None:
    """Writes the training images as they come to clean/, for an attacker who trains on them."""
    source = _open(work.settings)
    write_shards(work, [_job(work, source, 'clean', source.train, 'train')])
    source.notes.say_counts(f'source {work.settings["source"]["name"]}')


def _open(settings: Settings) -> Source:
    """Opens the source, process 0 first: it downloads, the others find it there."""
    if devices.is_lead():
        source = open_source(**settings['source'])
        devices.barrier('source')
        return source
    devices.barrier('source')
    return open_source(**settings['source'])


def _job(
    work: Work,
    source: Source,
    sub: str,
    pool: Pool,
    split: str,
    stamp: Callable[[range], dict[int, Record]] | None = None,
) -> tuple[Sink, Callable[[range], Iterator[Record]]]:
    """One split to write into `sub`; `stamp` gives the records that change, by position."""
    size = work.settings['source']['size_px'], work.settings['source']['channels']
    features = make_features(*size, source.class_names)
    sink = dataset_sink(
        work.folder / sub,
        Path(sub).name,
        features,
        len(pool),
        work.settings['shard_size'],
        split=split,
    )

    def records(positions: range) -> Iterator[Record]:
        changed = stamp(positions) if stamp else {}
        return (changed.pop(i) if i in changed else _record(pool, i) for i in positions)

    return sink, records


def _record(pool: Pool, position: int) -> Record:
    return {
        'id': int(pool.ids[position]),
        'image': pool.fetch(position),
        'label': int(pool.labels[position]),
    }


def poison_range(
    attacks: Sequence[Attack], roles: Mapping[int, Role], pool: Pool, positions: range
) -> dict[int, Record]:
    """Poisons the images at `positions` whose id has a role; returns them by position.

    They are taken together by role, `STAMP_BATCH` at a time: a learned attack computes that many
    rows however few it is given.
    """
    role_at = {i: roles[id] for i in positions if (id := int(pool.ids[i])) in roles}
    carriers = sorted(role_at, key=role_at.__getitem__)
    stamped: dict[int, Record] = {}
    for start in range(0, len(carriers), STAMP_BATCH):
        preemption.check()
        piece = carriers[start : start + STAMP_BATCH]
        records = poison_records(
            attacks, [_record(pool, i) for i in piece], [role_at[i] for i in piece]
        )
        stamped.update(zip(piece, records, strict=True))
    return stamped


def _write_truth(
    folder: Path,
    settings: Settings,
    source: Source,
    attacks: Sequence[Attack],
    poisoning: Poisoning,
    digest: str,
) -> None:
    order = np.argsort(poisoning.pool.ids)
    ids, labels = poisoning.pool.ids[order], poisoning.pool.labels[order]
    given, trigger = labels.copy(), np.full(len(ids), -1, np.int32)
    hit, cover = (
        np.isin(ids, np.concatenate(groups)) for groups in (poisoning.poisoned, poisoning.covering)
    )
    for which, attack in enumerate(attacks):
        trigger[
            np.isin(ids, np.concatenate([poisoning.poisoned[which], poisoning.covering[which]]))
        ] = which
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
        'added_copies': int((poisoning.copy_of >= 0).sum()),
        'class_names': source.class_names,
    }
    Manifest(ids, labels, given, hit, cover, trigger, poisoning.copy_of[order], facts).write(
        folder / 'truth'
    )
