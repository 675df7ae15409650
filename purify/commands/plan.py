"""Makes the stages that a config stands for."""

from typing import Any

from purify.attacker.stages import attacker_stages
from purify.core.errors import UserError
from purify.core.types import Facts, Settings
from purify.defenses.method import Method
from purify.defenses.registry import DEFENSES
from purify.engine.stage import Input, Stage
from purify.evaluation.stages import evaluation_stages
from purify.stages.named_folders import encoder_folder, prior_folder
from purify.stages.stage_lists import Find, find_encoder, prior_stages, step_stages

# parts and settings that every run has
NEEDED = ('name', 'seeds', 'source', 'attack', 'shard_size', 'run')


class _NoStudent(Facts):
    """Stands for the part `student` that a config does not have."""

    def __init__(self, defense: str):
        super().__init__()
        self.defense = defense

    def __missing__(self, name: str) -> Any:
        raise UserError(
            f'defense {self.defense!r} trains a student, but the config has no part `student`.'
        )


def make_method(config: Settings) -> Method:
    """The configured defence's steps. Raises `UserError` for an unknown defence or setting."""
    if 'defense' not in config:
        return Method()
    name = config['defense']['name']
    defense = DEFENSES.make(
        name, **{key: value for key, value in config['defense'].items() if key != 'name'}
    )
    return defense.method(config.get('student') or _NoStudent(name))


def check_parts(config: Settings) -> None:
    """Raises `UserError` unless the config has what every run needs."""
    if missing := [part for part in NEEDED if part not in config]:
        raise UserError(
            f'the config has no {", ".join(missing)}: it describes no run. Is it one for `purify'
            ' bench`?'
        )


def make_stages(
    config: Settings, find: Find = prior_folder, look_up: Find = encoder_folder
) -> list[Stage]:
    """The stages of a config, each with exactly the settings that change its result.

    Args:
      config: of the run, as plain nested dicts.
      find: (load, revision) -> (folder, digest) of a finished prior; the default may download it.
      look_up: the same for an encoder.

    Raises:
      UserError: for parts that do not fit together.
    """
    check_parts(config)
    where: dict[str, Input] = {}
    stages = attacker_stages(where, config)
    method = make_method(config)
    if 'prior' in config:
        stages += prior_stages(where, config, find)
    if 'encoder' in config:
        where['encoder'] = find_encoder(config, method, look_up)
    for step in method.steps:
        stages += step_stages(where, step, config, find)
    return stages + evaluation_stages(where, method, config)
