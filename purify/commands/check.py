"""The command `check`: shapes every stage without running it, and lists all that is missing."""

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from purify.attacker.shape import shape_attacker, shape_data
from purify.commands.call import Call
from purify.commands.plan import check_parts, make_method, make_stages
from purify.commands.published_shapes import published_encoder, published_prior
from purify.commands.target import compile_for, print_cost
from purify.core.errors import UserError
from purify.core.files import user_path
from purify.core.targets import TARGETS
from purify.core.types import Facts, Settings
from purify.core.writers import WRITERS
from purify.defenses.method import Method
from purify.evaluation.shape import shape_evaluation
from purify.generative.open_prior import load_variation_model
from purify.stages.known import Diagnosis, Known
from purify.stages.named_folders import encoder_folder, is_local, prior_folder
from purify.stages.registry import KINDS
from purify.stages.stage_lists import Find
from purify.stages.train_diffusion import shape_distilled, shape_prior
from purify.stages.train_encoder import open_encoder

_PLAIN = {'dtype': 'float32', 'vae_slice': 0}  # how a prior is opened to be distilled


def check(config: Settings, *, fetched: bool = False) -> Diagnosis:
    """Shapes all stages of a config (plain nested dicts); downloads and trains nothing.

    A prior or encoder on the hub stands for itself where it is `fetched` already, else the
    published network of its kind does. Raises `UserError` for a config that describes no run.
    """
    check_parts(config)
    found = Diagnosis()
    finds = [find if fetched else partial(_find, find) for find in (prior_folder, encoder_folder)]
    found.attempt('stages', lambda: make_stages(config, *finds))
    known = Known(found, config, shape_data(found, config), {}, fetched=fetched)
    shape_attacker(known)
    if 'prior' in config:
        known = replace(known, prior=_prior(known))
    if 'encoder' in config:
        known = replace(known, encoder=_encoder(known, config['encoder']))
    method = found.attempt('defense', lambda: make_method(config)) or Method()
    for step in method.steps:
        found.attempt(step.name, lambda step=step: KINDS[step.kind].shape(known, step))
    shape_evaluation(known, method)
    for name in config['run']['writers']:
        found.attempt('run.writers', lambda name=name: WRITERS[name])
    return found


def _find(find: Find, load: str, revision: str) -> tuple[Path, str]:
    """Like `find`, but leaves the hub alone."""
    return find(load, revision) if is_local(load) else (Path(load), 'on the hub')


def _prior(known: Known) -> Any:
    """The configured prior as shapes, or None and a problem."""
    found, config, part = known.found, known.config, known.config['prior']
    if 'load' not in part:
        if part['data'] == 'reference' and config['source']['reference'] == 'none':
            found.problems.append(
                "prior.data='reference', but source.reference='none': no images to train it on."
            )
        if 'distill' not in part:
            return found.attempt('prior', lambda: shape_prior(known, part))
        finished = _finished(known, part | {'load': part['distill']}, _PLAIN)
        return found.attempt('prior', lambda: finished and shape_distilled(known, part, finished))
    return _finished(known, part, _opened(config))


def _finished(known: Known, part: Settings, opened: Facts) -> Any:
    """A finished prior as shapes, or None and a problem."""
    found, config = known.found, known.config
    if known.may_open('prior', part['load']):
        find = lambda: prior_folder(part['load'], part['revision'])[0]
        load = lambda: load_variation_model(find(), weights=False, **opened)
        return found.attempt('prior', load)
    model = _wanted_prior(config['defense']) if 'defense' in config else 'pixel'
    return found.attempt('prior', lambda: published_prior(model, **opened))


def _wanted_prior(defense: Settings) -> str:
    """The kind of prior that a defence asks for."""
    if defense.get('generator', {}).get('objective', {}).get('name') == 'latent':
        return 'sd_img2img'
    return defense.get('vary', {}).get('model', 'pixel')


def _encoder(known: Known, part: Settings) -> Any:
    """The configured finished encoder as shapes, or None and a problem."""
    if known.may_open('encoder', part['load']):
        find = lambda: encoder_folder(part['load'], part['revision'])[0]
        return known.found.attempt('encoder', lambda: open_encoder(find(), weights=False))
    return published_encoder()


def _opened(config: Settings) -> Facts:
    """How the configured defence opens its prior."""
    dtype = config['defense'].get('dtype', 'float32') if 'defense' in config else 'float32'
    return {'dtype': dtype, 'vae_slice': config['run']['vae_slice']}


def _check_writable(folder: Path) -> None:
    """Raises `UserError` where a run could not make or fill this folder."""
    here = folder.absolute()
    while not os.path.lexists(here):
        here = here.parent
    if not (here.is_dir() and os.access(here, os.W_OK | os.X_OK)):
        what = 'may not be written' if here.is_dir() else 'is no folder'
        raise UserError(f'{here} {what}. Choose another.')


def command(call: Call) -> int:
    """Prints all problems of a config; returns 0 if every stage can run, 2 otherwise."""
    config = call.load()
    found = check(config)
    for flag, place in (('workdir', call.args.workdir), ('store', call.args.store)):
        found.attempt(flag, lambda place=place: place and _check_writable(user_path(place)))
    code, name = 2 if found.problems else 0, call.args.target
    if call.args.devices is not None and not (name and call.args.devices > 0):
        raise UserError('--devices takes a number from 1 on, and goes with --target.')
    if name:
        TARGETS[name]  # raises for an unknown one, with the choices
    # What is traced with wrong settings would mislead.
    cost = None
    if name and not found.problems:
        cost = compile_for(name, found, config['run'], call.args.devices or 1)
    if call.args.json:
        facts = {'config': config['name'], 'problems': found.problems, 'notes': found.notes}
        print(json.dumps(facts | ({'cost': cost} if cost else {}), indent=2))
        return code
    for note in found.notes:
        print(f'  {note}')
    for problem in found.problems:
        print(f'problem: {problem}')
    count = len(found.problems)
    print(f'{config["name"]}: ' + (f'{count} problem(s)' if count else 'every stage can run'))
    if cost:
        print_cost(cost)
    elif name:
        print(f'nothing was compiled for {name}: solve the problems first')
    return code
