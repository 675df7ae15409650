"""The stage `prepare`: writes the poisoned dataset and, in a folder apart, the truth about it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from purify.attacker.attackers_loader import draw_poison, refuse_loader
from purify.attacker.manifest import Manifest
from purify.attacker.poison_plan import FILES, Poisoning, digest_of, keep_files, make_attacks
from purify.attacker.poison_records import Role, poison_records
from purify.attacks.attack import Attack
from purify.attacks.learned.fitted import STAMP_BATCH
from purify.core import devices, preemption
from purify.core.files import write_json
from purify.core.types import Facts, Settings
from purify.data.builders import make_features
from purify.data.loader import Record
from purify.data.sources.open_source import Pool, Source, open_source
from purify.engine.shards import Sink, dataset_sink, write_shards
from purify.engine.stage import Work

FITTED = ('trigger', 'surrogate')  # stages of the attacker that a fitted attack comes from
Stamp = Callable[[range], dict[int, Record]]  # positions -> the records that change, by position


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
    poisoning, loader = draw_poison(source, rule, seed)
    folders = {role: work.inputs.get(role) for role in FITTED}
    attacks = make_attacks(rule, seed, len(source.class_names), **folders)
    refuse_loader(rule, fitted=any(getattr(attack, 'load', '') for attack in attacks))
    for attack in attacks:  # a patch that does not fit is known now, not after an hour
        attack.stamp(source.train.fetch(0), 0)
    pool, roles = poisoning.pool, poisoning.roles
    hit = np.flatnonzero(np.isin(pool.ids, sorted(roles)))
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
        facts = {'attack': rule, 'digest': digest_of(attacks), 'seed': seed}
        facts |= {'train_images': len(pool), 'test_images': len(source.test)}
        manifest = _tell_truth(attacks, poisoning, facts, source.class_names)
        manifest.write(work.folder / 'truth')
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
    work: Work, source: Source, sub: str, pool: Pool, split: str, stamp: Stamp | None = None
) -> tuple[Sink, Callable[[range], Iterator[Record]]]:
    """One split to write into `sub`, changed by `stamp`."""
    size = work.settings['source']['size_px'], work.settings['source']['channels']
    features, shard_size = make_features(*size, source.class_names), work.settings['shard_size']
    folder = work.folder / sub
    sink = dataset_sink(folder, folder.name, features, len(pool), shard_size, split=split)

    def records(positions: range) -> Iterator[Record]:
        changed = stamp(positions) if stamp else {}
        return (changed.pop(i) if i in changed else _record(pool, i) for i in positions)

    return sink, records


def _record(pool: Pool, position: int) -> Record:
    identity, label = int(pool.ids[position]), int(pool.labels[position])
    return {'id': identity, 'image': pool.fetch(position), 'label': label}


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
        clean, own = [_record(pool, i) for i in piece], [role_at[i] for i in piece]
        stamped.update(zip(piece, poison_records(attacks, clean, own), strict=True))
    return stamped


def _tell_truth(
    attacks: Sequence[Attack], poisoning: Poisoning, facts: Facts, class_names: list[str]
) -> Manifest:
    """The manifest of what was drawn, with `facts` and the counts."""
    order = np.argsort(poisoning.pool.ids)
    ids, labels = poisoning.pool.ids[order], poisoning.pool.labels[order]
    given, trigger = labels.copy(), np.full(len(ids), -1, np.int32)
    hit, cover = (
        np.isin(ids, np.concatenate(groups)) for groups in (poisoning.poisoned, poisoning.covering)
    )
    for which, attack in enumerate(attacks):
        carriers = np.concatenate([poisoning.poisoned[which], poisoning.covering[which]])
        trigger[np.isin(ids, carriers)] = which
        own = hit & (trigger == which)
        given[own] = [attack.relabel(int(label)) for label in labels[own]]
    copies = int((poisoning.copy_of >= 0).sum())
    facts = facts | {'poisoned_images': int(hit.sum()), 'cover_images': int(cover.sum())}
    facts |= {'added_copies': copies, 'class_names': class_names}
    return Manifest(ids, labels, given, hit, cover, trigger, poisoning.copy_of[order], facts)
