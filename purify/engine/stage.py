"""What a stage is: its inputs, its settings, what it may see, and the work that it is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from purify.core.types import Facts, Settings
from purify.core.writers import Writer
from purify.train.cost import Cost


@dataclass(frozen=True)
class Input:
    """Where a stage finds an input: in an earlier stage's folder, or outside the run.

    Attributes:
      stage: the earlier stage; '' for what comes from outside.
      sub: the subfolder of its folder.
      outside: a file or folder from outside; None where that is not one place, such as a dataset
        that is downloaded.
      digest: identifies what lies outside.
    """

    stage: str = ''
    sub: str = ''
    outside: Path | None = None
    digest: str = ''

    def __post_init__(self) -> None:
        if Path(self.sub).is_absolute() or '..' in Path(self.sub).parts:
            raise ValueError(f'{self.sub!r} is no subfolder of {self.stage!r}.')


@dataclass(frozen=True)
class Stage:
    """One stage: `run(work)` fills `work.folder` from `work.inputs`, by `work.settings`.

    A defence is blind because a stage can open its inputs alone, and because of the last two
    attributes.

    Attributes:
      name: unique in its chain.
      run: does the work.
      settings: everything besides the inputs that changes the result.
      inputs: role -> where that lies.
      sees: the roles of those inputs that tell more than a defence may know: the source before the
        attack, the truth about who is poisoned, and whatever was made by stages that see such a
        thing. Inputs that are not named here must be open to all.
      shows: subfolders of such a stage's own folder that are open to all nevertheless; '' for the
        whole of it.
    """

    name: str
    run: Callable[['Work'], None]
    settings: Settings
    inputs: dict[str, Input] = field(default_factory=dict)
    sees: tuple[str, ...] = field(default=(), kw_only=True)
    shows: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if unknown := [role for role in self.sees if role not in self.inputs]:
            raise ValueError(f'stage {self.name!r} sees {", ".join(unknown)}, no input of its own.')

    def shuts(self, sub: str) -> bool:
        """Whether that subfolder of the stage's folder is only for stages whose `sees` says so."""
        shown = any(Path(sub).is_relative_to(place) for place in self.shows)
        return bool(self.sees) and not shown


@dataclass(frozen=True)
class Work:
    """All that a stage function gets; it has no way to anything else.

    Attributes:
      name: the stage's.
      folder: an empty or half-filled folder that is its own.
      inputs: role -> finished folder.
      settings: its part of the config, which is what its fingerprint covers.
      run: how to run (batch sizes, intervals), which changes no result.
      writers: copies of metrics.
      cost: running totals to add to.
    """

    name: str
    folder: Path
    inputs: dict[str, Path]
    settings: Settings
    run: Facts
    writers: Sequence[Writer]
    cost: Cost
