"""What a command was called with, as all commands read it."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from purify.config.load import load_config
from purify.core.errors import UserError
from purify.core.types import Facts

T = TypeVar('T')


@dataclass(frozen=True)
class Call:
    """The command line of one call.

    Attributes:
      args: the flags.
      overrides: the settings, `--config.part.name=value`.
      words: what stands before the flags: what is measured, or converted.
    """

    args: argparse.Namespace
    overrides: list[str]
    words: list[str]

    def need(self, name: str) -> Any:
        """A flag that the command cannot do without. Raises `UserError` where it is missing."""
        value = getattr(self.args, name)
        if value is None:
            raise UserError(
                f'--{name.replace("_", "-")} is missing; see `purify {self.args.command} --help`.'
            )
        return value

    def load(self) -> Facts:
        """The config as plain nested dicts. Raises `UserError` for one that cannot be read."""
        try:
            return load_config(self.need('config'), self.overrides)
        except ValueError as error:
            raise UserError(str(error)) from error

    @property
    def workdir(self) -> Path:
        """The work folder, which must be given."""
        return self.need('workdir')
