"""The command `check`: shapes every stage without running it, and lists all that is missing."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from purify.attacker.attackers_loader import loader_facts, on_the_fly, refuse_loader
from purify.attacker.fit_trigger import shape_trigger
from purify.attacker.poison_plan import (
    Poisoning,
    check_target,
    draw_poisoning,
    make_attacks,
    make_rules,
)
from purify.attacker.trusted_images import share_out
from purify.attacks.attack import Attack
from purify.commands.call import Call
from purify.commands.plan import check_parts, make_method, make_stages
from purify.commands.published_shapes import stand_in, stand_in_encoder
from purify.core.errors import UserError
from purify.core.files import user_path
from purify.core.types import Facts, Settings
from purify.core.writers import WRITERS
from purify.data.sources.open_source import Source, open_source
from purify.defenses.method import Method
from purify.evaluation.shape import shape_evaluation
from purify.generative.open_prior import load_variation_model
from purify.stages.known import Data, Diagnosis, Known
from purify.stages.named_folders import EMBEDDED, encoder_folder, prior_folder
from purify.stages.registry import KINDS
from purify.stages.stage_lists import Find
from purify.stages.train_classifier import shape_classifier
from purify.stages.train_diffusion import shape_prior
from purify.stages.train_encoder import open_encoder

NOMINAL_IMAGES = (
    10_000  # stands for the number of training images where the source is not on this machine yet
)


def check(config: Settings, *, fetched: bool = False) -> Diagnosis:
    """Shapes all stages of a config (plain nested dicts); downloads and trains nothing.

    A prior or encoder on the hub stands for itself where it is `fetched` already, else the
    published network of its kind does. Raises `UserError` for a config that describes no run.
    """
    check_parts(config)
    found = Diagnosis()
    find = (
        (prior_folder, encoder_folder)
        if fetched
        else (partial(_find, prior_folder), partial(_find, encoder_folder))
    )
    found.attempt('stages', lambda: make_stages(config, *find))
    known = Known(found, config, _source(found, config), {})
    if not config['attack'].get('load'):
        if 'surrogate' in config:
            shape_classifier(known, 'surrogate', config['surrogate'])
        failed = (
            'surrogate' in config and known.networks['surrogate'] is None
        )  # which the findings say why
        if 'trigger' in config and not failed:
            found.attempt('trigger', lambda: shape_trigger(known))
    if 'teacher' in config:
        shape_classifier(known, 'teacher', config['teacher'])
    if 'prior' in config:
        known = replace(known, prior=_prior(known, fetched))
    if 'encoder' in config:
        known = replace(known, encoder=_encoder(found, config['encoder'], fetched))
    method = found.attempt('defense', lambda: make_method(config)) or Method()
    for step in method.steps:
        found.attempt(step.name, lambda step=step: KINDS[step.kind].shape(known, step))
    shape_evaluation(known, method)
    for name in config['run']['writers']:
        found.attempt('run.writers', lambda name=name: WRITERS[name])
    return found


def _find(find: Find, load: str, revision: str) -> tuple[Path, str]:
    """Like `find`, but leaves the hub alone."""
    return find(load, revision) if _is_local(load) else (Path(load), 'on the hub')


def _is_local(load: str) -> bool:
    here = load.startswith(('/', './', '../', '~')) or Path(load).suffix in (
        '.safetensors',
        '.pt',
        '.pth',
    )
    return here or load in EMBEDDED or user_path(load).exists() or load.count('/') != 1


def _source(found: Diagnosis, config: Settings) -> Data:
    part, rule = config['source'], config['attack']
    kind, _, dataset = part['name'].partition(':')
    shape = Data(
        part['size_px'],
        part['channels'],
        max(2, rule['target'] + 1),
        part['train_size'] or NOMINAL_IMAGES,
    )
    if kind == 'tfds' and (
        size := found.attempt('source', lambda: _catalogue(found, dataset, part))
    ):
        shape = Data(shape.size_px, shape.channels, *size)
    elif kind != 'tfds' and (source := found.attempt('source', lambda: open_source(**part))):
        shape = Data(shape.size_px, shape.channels, len(source.class_names), len(source.train))
        if (poisoning := found.attempt('attack', lambda: _poisoning(source, config))) is not None:
            poisoned, covering = (
                sum(map(len, groups)) for groups in (poisoning.poisoned, poisoning.covering)
            )
            counts = (
                f'{len(poisoning.pool):,} training and {len(source.test):,} test images,'
                f' {poisoned:,} poisoned'
            )
            found.notes.append(
                f'source: {counts}' + (f', {covering:,} covering' if covering else '')
            )
            if 'trusted' in config:
                found.attempt(
                    'trusted',
                    lambda: found.notes.append(
                        _count_trusted(source, poisoning, config['trusted'])
                    ),
                )
    if attacks := found.attempt('attack', lambda: _attacks(config, shape.classes)):
        blank = np.zeros((shape.size_px, shape.size_px, shape.channels), np.uint8)
        for attack in attacks:
            found.attempt('attack', lambda attack=attack: attack.stamp(blank, 0))
    return shape


def _attacks(config: Settings, classes: int) -> tuple[Attack, ...]:
    """The attacks, where they need not be fitted first; else none."""
    rule = config['attack']
    check_target(rule, classes)
    refuse_loader(rule, fitted='trigger' in config or bool(rule.get('load')))
    if 'trigger' in config and not rule.get('load'):
        return ()
    return make_attacks(rule, config['seeds']['poison'], classes)


def _poisoning(source: Source, config: Settings) -> Poisoning:
    rule, classes = config['attack'], len(source.class_names)
    check_target(rule, classes)
    rules, seed = make_rules(rule), config['seeds']['poison']
    poisoning = draw_poisoning(source.train, rule, rules, seed)
    if on_the_fly(rule):
        loader_facts(rule, seed, rules, poisoning, classes)
    return poisoning


def _count_trusted(source: Source, poisoning: Poisoning, part: Settings) -> str:
    """A note on how many images the defender is told to be clean.

    Raises `UserError` where a class has too few.
    """
    pool, touched = poisoning.pool, np.concatenate([*poisoning.poisoned, *poisoning.covering])
    left = np.bincount(pool.labels[~np.isin(pool.ids, touched)], minlength=len(source.class_names))
    counts = share_out(dict(zip(source.class_names, left.tolist(), strict=True)), len(pool), **part)
    return f'trusted: {sum(counts):,} images that are handed over as clean'


def _catalogue(found: Diagnosis, dataset: str, part: Settings) -> tuple[int, int]:
    """(classes, training images) of a TFDS dataset as its code declares them."""
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
        )
    features: Any = builder.info.features
    name = part.get('label', 'label')
    label = dict(features.items()).get(name)
    chosen = part['classes']
    count = int(chosen) if chosen.isdecimal() else len([name for name in chosen.split(',') if name])
    classes = count or getattr(label, 'num_classes', None) or 2
    train = here[part.get('train', 'train')].num_examples if here else NOMINAL_IMAGES
    return classes, part['train_size'] or train


def _prior(known: Known, fetched: bool) -> Any:
    """The configured prior as shapes, or None and a problem."""
    found, config = known.found, known.config
    part = config['prior']
    if 'load' in part:
        if fetched or _is_local(part['load']):
            folder = found.attempt('prior', lambda: prior_folder(part['load'], part['revision'])[0])
            return folder and found.attempt(
                'prior', lambda: load_variation_model(folder, weights=False, **_opened(config))
            )
        model = _wanted_prior(config['defense']) if 'defense' in config else 'pixel'
        found.notes.append(
            f'prior: {part["load"]} is fetched from the hub at the start of a run, or given as a'
            ' local folder'
        )
        return found.attempt('prior', lambda: stand_in(model, **_opened(config)))
    if part['data'] == 'reference' and config['source']['reference'] == 'none':
        found.problems.append(
            "prior.data='reference', but source.reference='none': no images to train the prior on."
        )

    return found.attempt('prior', lambda: shape_prior(known, part))


def _wanted_prior(defense: Settings) -> str:
    """The kind of prior that a defence asks for."""
    if defense.get('generator', {}).get('objective', {}).get('name') == 'latent':
        return 'sd_img2img'
    return defense.get('vary', {}).get('model', 'pixel')


def _encoder(found: Diagnosis, part: Settings, fetched: bool) -> Any:
    """The configured finished encoder as shapes, or None and a problem."""
    if fetched or _is_local(part['load']):
        return found.attempt(
            'encoder',
            lambda: open_encoder(encoder_folder(part['load'], part['revision'])[0], weights=False),
        )
    found.notes.append(
        f'encoder: {part["load"]} is fetched from the hub at the start of a run, or given as a'
        ' local folder'
    )
    return stand_in_encoder()


def _opened(config: Settings) -> Facts:
    """How the configured defence opens its prior."""
    dtype = config['defense'].get('dtype', 'float32') if 'defense' in config else 'float32'
    return {'dtype': dtype, 'vae_slice': config['run']['vae_slice']}


def command(call: Call) -> int:
    """Prints all problems of a config; returns 0 if every stage can run, 2 otherwise."""
    config = call.load()
    found = check(config)
    for note in found.notes:
        print(f'  {note}')
    for problem in found.problems:
        print(f'problem: {problem}')
    print(
        f'{config["name"]}: '
        + (f'{len(found.problems)} problem(s)' if found.problems else 'every stage can run')
    )
    return 2 if found.problems else 0
