"""Traces what the attacker does without running it, for `check`."""

from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from purify.attacker.attackers_loader import draw_poison, refuse_loader
from purify.attacker.fit_trigger import shape_trigger
from purify.attacker.poison_plan import Poisoning, check_target, make_attacks
from purify.attacker.trusted_images import share_out
from purify.attacks.attack import Attack
from purify.core.errors import UserError
from purify.core.types import Settings
from purify.data.sources.open_source import Source, open_source
from purify.stages.known import Data, Diagnosis, Known
from purify.stages.train_classifier import shape_classifier

NOMINAL_IMAGES = 10_000  # stands for the training images of a source that is not on this machine


def shape_data(found: Diagnosis, config: Settings) -> Data:
    """What is known of the data before a run; mistakes in the source, attack and trust are noted.

    Who is poisoned is drawn where the source can be opened without a download.
    """
    part, rule = config['source'], config['attack']
    kind, _, dataset = part['name'].partition(':')
    images, classes = part['train_size'] or NOMINAL_IMAGES, max(2, rule['target'] + 1)
    data = Data(part['size_px'], part['channels'], classes, images)
    if kind == 'tfds':
        if size := found.attempt('source', lambda: _catalogue(found, dataset, part)):
            data = replace(data, classes=size[0], images=size[1], test_images=size[2])
    elif source := found.attempt('source', lambda: open_source(**part)):
        sizes = {'images': len(source.train), 'test_images': len(source.test)}
        data = replace(data, classes=len(source.class_names), **sizes)
        _shape_poison(found, config, source)
    blank = np.zeros(data.pixels, np.uint8)
    for attack in found.attempt('attack', lambda: _make_attacks(config, data.classes)) or ():
        found.attempt('attack', lambda attack=attack: attack.stamp(blank, 0))
    return data


def shape_attacker(known: Known) -> None:
    """Traces the surrogate, the fit of the trigger and the teacher, where the config has them."""
    config = known.config
    if not config['attack'].get('load'):
        if 'surrogate' in config:
            shape_classifier(known, 'surrogate', config['surrogate'])
        # The findings say why.
        failed = 'surrogate' in config and known.networks['surrogate'] is None
        if 'trigger' in config and not failed:
            known.found.attempt('trigger', lambda: shape_trigger(known))
    if 'teacher' in config:
        shape_classifier(known, 'teacher', config['teacher'])


def _shape_poison(found: Diagnosis, config: Settings, source: Source) -> None:
    """Draws who is poisoned and how many are trusted, and notes how many there are."""
    rule, seed = config['attack'], config['seeds']['poison']
    drawn = found.attempt('attack', lambda: draw_poison(source, rule, seed))
    if drawn is None:
        return
    poisoning = drawn[0]
    poisoned, covering = poisoning.counts
    found.notes.append(
        f'source: {len(poisoning.pool):,} training and {len(source.test):,} test images,'
        f' {poisoned:,} poisoned' + (f', {covering:,} covering' if covering else '')
    )
    if 'trusted' in config:
        count = found.attempt('trusted', lambda: _trusted(poisoning, source, config['trusted']))
        if count is not None:
            found.notes.append(f'trusted: {count:,} images that are handed over as clean')


def _trusted(poisoning: Poisoning, source: Source, part: Settings) -> int:
    """How many images the defender is told to be clean; `UserError` where a class has too few."""
    pool, touched = poisoning.pool, np.concatenate([*poisoning.poisoned, *poisoning.covering])
    clean = pool.labels[~np.isin(pool.ids, touched)]
    return sum(share_out(clean, source.class_names, len(pool), **part))


def _make_attacks(config: Settings, classes: int) -> tuple[Attack, ...]:
    """The attacks, where they need not be fitted first; else none."""
    rule = config['attack']
    check_target(rule, classes)
    refuse_loader(rule, fitted='trigger' in config or bool(rule.get('load')))
    if 'trigger' in config and not rule.get('load'):
        return ()
    return make_attacks(rule, config['seeds']['poison'], classes)


def _catalogue(found: Diagnosis, dataset: str, part: Settings) -> tuple[int, int, int]:
    """(classes, training images, test images) of a TFDS dataset as its code declares them."""
    try:
        builder = tfds.builder(dataset, data_dir=part.get('data_dir') or None)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f'tfds:{dataset}: TFDS knows no such dataset; see tensorflow.org/datasets/catalog.'
        ) from error
    here = dict(builder.info.splits)
    if not here:
        found.notes.append(
            f'source: tfds:{dataset} is not on this machine; the run downloads it to'
            f' {builder.data_dir}'
            + ('' if part['train_size'] else f'; {NOMINAL_IMAGES:,} training images stand for it')
        )
    features: Any = builder.info.features
    label, chosen = dict(features.items()).get(part.get('label', 'label')), part['classes']
    count = int(chosen) if chosen.isdecimal() else len([name for name in chosen.split(',') if name])
    classes = count or getattr(label, 'num_classes', None) or 2
    train = here[part.get('train', 'train')].num_examples if here else NOMINAL_IMAGES
    names = [part.get('test'), 'test', 'validation']
    held = next((here[name].num_examples for name in names if name in here), NOMINAL_IMAGES)
    return classes, part['train_size'] or train, part['test_size'] or held
