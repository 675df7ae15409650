"""The stage `prepare`: source -> poisoned dataset, and beside it, under lock and key, the truth about it."""

import concurrent.futures
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purify.attacks.attack import Attack
from purify.attacks.registry import ATTACKS
from purify.attacks.selection import choose
from purify.core import devices, preemption
from purify.core.errors import UserError
from purify.core.files import read_json, write_json
from purify.core.progress import Bar
from purify.core.randomness import stream_seed
from purify.data.builders import DatasetWriter, cut, describe
from purify.data.manifest import Manifest
from purify.data.poison import Poisoner
from purify.data.sources import Pool, Source, open_source
from purify.pipelines.chain import Work

SELECTION = ('rate', 'base', 'include_target')
MODE = ('poison_first', 'random_poisoning')


def make_attack(settings: dict[str, Any], seed: int) -> Attack:
    """The `attack` part of a config -> the attack; its own randomness comes from the stream 'trigger' of `seed`."""
    if settings['name'] == 'none' and settings['rate']:
        raise UserError(f"attack.rate={settings['rate']}: the attack 'none' poisons nobody; set rate to 0 or choose an attack.")
    own = {name: value for name, value in settings.items() if name not in (*SELECTION, *MODE, 'name')}
    own |= {name: tuple(value) for name, value in own.items() if isinstance(value, list)}
    return ATTACKS.make(settings['name'], seed=stream_seed(seed, 'trigger'), **own)


def choose_poisoned(pool: Pool, settings: dict[str, Any], seed: int) -> np.ndarray:
    """The poisoned ids, i64[count], drawn once from the stream 'selection' of `seed`."""
    rules = {name: settings[name] for name in SELECTION}
    return choose(pool.labels, pool.ids, target=settings['target'], seed=stream_seed(seed, 'selection'), **rules)


def prepare(work: Work) -> None:
    """Fills poisoned/ (split train), truth/ (manifest, clean test split, originals of the poisoned images), reference/.

    Where the attacker poisons in his own loader (`poison_first` false or `random_poisoning`), attacker/ holds the clean
    training images and his rule; poisoned/ is then the snapshot that a defence gets.
    """
    settings, seed = work.settings, work.settings['seed']
    source = _open(settings)
    if not 0 <= settings['attack']['target'] < len(source.class_names):
        last = len(source.class_names) - 1
        raise UserError(f'attack.target={settings["attack"]["target"]} is not a class; choose 0 to {last}.')
    attack = make_attack(settings['attack'], seed)
    attack.stamp(source.train.fetch(0), 0)  # a patch that does not fit is known now, not after an hour
    chosen = set(choose_poisoned(source.train, settings['attack'], seed).tolist())

    def poisoned(image: np.ndarray, label: int, identity: int) -> tuple[np.ndarray, int]:
        return (attack.stamp(image, identity), attack.relabel(label)) if identity in chosen else (image, label)

    hit = np.flatnonzero(np.isin(source.train.ids, sorted(chosen)))
    writing = _Writing(work, source)
    writing.add('poisoned', source.train, 'train', poisoned)
    writing.add('truth/test', source.test, 'test')
    if len(hit):
        writing.add('truth/originals', source.train.take(hit), 'train')
    if source.reference:
        writing.add('reference', source.reference, 'train')
    if _on_the_fly(settings['attack']):
        writing.add('attacker/clean', source.train, 'train')
    writing.finish()
    if devices.is_lead():
        _write_truth(work.folder, settings, source, attack, chosen)


def _open(settings: dict[str, Any]) -> Source:
    """Opens the source, process 0 first: it downloads, the others find it there."""
    if devices.is_lead():
        source = open_source(**settings['source'])
        devices.barrier('source')
        return source
    devices.barrier('source')
    return open_source(**settings['source'])


def _on_the_fly(attack: dict[str, Any]) -> bool:
    return attack['rate'] > 0 and (attack['random_poisoning'] or not attack['poison_first'])


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
            for i in positions:
                preemption.check()
                image, label, identity = pool.fetch(i), int(pool.labels[i]), int(pool.ids[i])
                image, label = change(image, label, identity) if change else (image, label)
                yield {'id': identity, 'image': image, 'label': label}

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


def _write_truth(folder: Path, settings: dict[str, Any], source: Source, attack: Attack, chosen: set[int]) -> None:
    pool, rule = source.train, settings['attack']
    order = np.argsort(pool.ids)
    ids, labels = pool.ids[order], pool.labels[order]
    hit = np.isin(ids, sorted(chosen))
    given = np.array([attack.relabel(int(k)) if h else k for k, h in zip(labels, hit, strict=True)], np.int32)
    facts = {
        'attack': rule,
        'digest': attack.digest(),
        'seed': settings['seed'],
        'train_images': len(ids),
        'test_images': len(source.test),
        'poisoned_images': int(hit.sum()),
        'class_names': source.class_names,
    }
    Manifest(ids, labels, given, hit, facts).write(folder / 'truth')
    if _on_the_fly(rule):
        eligible = len(labels) if rule['include_target'] else int((labels != rule['target']).sum())
        loader = {
            'ids': None if rule['random_poisoning'] else sorted(chosen),
            'rate': len(chosen) / eligible,
            'spared': None if rule['include_target'] else rule['target'],
            'before_augmentation': rule['poison_first'],
        }
        write_json(folder / 'attacker' / 'loader.json', loader | {'attack': rule, 'seed': settings['seed']})


def read_poisoner(folder: Path) -> tuple[Poisoner, bool]:
    """attacker/ -> his transform, and whether it goes before the augmentations."""
    facts = read_json(folder / 'loader.json')
    ids = None if facts['ids'] is None else frozenset(facts['ids'])
    attack = make_attack(facts['attack'], facts['seed'])
    return Poisoner(attack, ids, facts['rate'], facts['spared']), facts['before_augmentation']
