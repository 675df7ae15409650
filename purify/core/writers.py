"""Where numbers go: metrics.jsonl is the record; TensorBoard and Weights & Biases are copies."""

import contextlib
import json
import math
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, TypedDict

import msgspec

from purify.core.errors import UserError
from purify.core.files import explain_os_errors, write_bytes
from purify.core.progress import say
from purify.core.registry import Registry
from purify.core.types import Facts

WANDB_ID = 'wandb_id'  # the file in a work folder
WANDB_NAME = 128  # characters that Weights & Biases allows in the name of a run
Cell = str | float | None
_Whole = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]


class Row(TypedDict):
    """What every row of a metrics.jsonl has; its other keys are numbers, or null if not finite."""

    stage: str
    step: Annotated[int, msgspec.Meta(ge=0, le=2**53)]


@dataclass(frozen=True)
class Sheet:
    """A named table of results: heads of columns, and rows of texts, numbers or None (unknown)."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def to_markdown(self) -> str:
        """The table as Markdown; numbers with six digits."""
        lines = [self.columns, ['---'] * len(self.columns), *self.rows]
        return ''.join(f'| {" | ".join(map(_say_cell, line))} |\n' for line in lines)


class Writer(Protocol):
    """Takes rows of numbers of a stage at a step, and in the end the results of the run."""

    def write(self, stage: str, step: int, row: dict[str, float]) -> None:
        """Writes one row."""

    def conclude(self, numbers: Mapping[str, float], sheets: Sequence[Sheet]) -> None:
        """Writes the results of the run in place of those that it wrote before."""

    def close(self) -> None:
        """Writes what is still to be written, and closes."""


def read_rows(path: Path) -> list[Facts]:
    """The rows of a metrics.jsonl; a last line cut by a kill is left out.

    Raises `UserError` that names the line for anything else that is no row: text that is no JSON, a
    row without stage or step.
    """
    try:
        lines = Path(path).read_bytes().split(b'\n')
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(
            f'{path}: cannot be read ({error.strerror}). Remove it and start again.'
        ) from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            if line:
                rows.append(msgspec.json.decode(line, type=dict[str, str | _Whole | float | None]))
                msgspec.convert(rows[-1], Row)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            if number == len(lines) and not isinstance(error, msgspec.ValidationError):
                break  # the line break is written last
            raise UserError(
                f'{path}: line {number} is no row of numbers ({error}). Delete the file and start'
                ' the same command again: only the curves of finished stages are lost with it.'
            ) from error
    return rows


class JsonLines:
    """Appends rows to `path`, once those after `step` are dropped: they are written again."""

    def __init__(self, path: Path, step: int):
        kept = [row for row in read_rows(path) if row['step'] <= step]
        write_bytes(path, ''.join(json.dumps(row) + '\n' for row in kept).encode())
        with explain_os_errors(path):
            self.path, self.file = path, open(path, 'a', encoding='utf-8')  # noqa: SIM115

    def write(self, stage: str, step: int, row: dict[str, float]) -> None:
        """Appends one line; a number that is not finite becomes null."""
        clean = {name: value if math.isfinite(value) else None for name, value in row.items()}
        with explain_os_errors(self.path):
            self.file.write(json.dumps({'stage': stage, 'step': step, **clean}) + '\n')
            self.file.flush()

    def close(self) -> None:
        """Closes the file."""
        with explain_os_errors(self.path):  # it tries once more to write what did not fit
            self.file.close()


@contextlib.contextmanager
def _starting(name: str, advice: str) -> Iterator[None]:
    """Turns whatever keeps an outside library from starting into a `UserError` with `advice`."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"run.writers has {name!r}: install the extra, pip install 'purify[{name}]' ({error})."
        ) from error
    except Exception as error:
        reason = ' '.join(str(error).split()).rstrip('.') or type(error).__name__
        raise UserError(f'run.writers: {name!r} does not start: {reason}. {advice}') from error


class TensorBoard(Writer):
    """Writes event files to `folder/tensorboard/<run>/<stage>` (needs the `tensorboard` extra).

    A stage that goes on after a stop writes some steps again: its file begins with the mark that
    makes TensorBoard forget what it has of these. Events are written at once and by this thread;
    the one of tensorboardX's `SummaryWriter` dies on a full disk, and whoever hands it the next
    events waits for ever.
    """

    def __init__(self, folder: Path, run: str, config: Mapping[str, Any]):
        with _starting('tensorboard', 'Install the extra anew, or leave it out of run.writers.'):
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2
        self.folder, self.summary, self.events = folder / 'tensorboard' / run, summary, event_pb2
        self.open_file, self.files = event_file_writer.EventsWriter, {}

    def write(self, stage: str, step: int, row: dict[str, float]) -> None:
        """Writes scalars named stage/metric."""
        for name, value in row.items():
            self._add(stage, step, summary=self.summary.scalar(f'{stage}/{name}', value))
        self.files[stage].flush()

    def conclude(self, numbers: Mapping[str, float], sheets: Sequence[Sheet]) -> None:
        """Writes scalars named results/name at step 0, and every table as a text."""
        for name, value in numbers.items():
            self._add('results', 0, summary=self.summary.scalar(f'results/{name}', value))
        for sheet in sheets:
            text = self.summary.text(f'results/{sheet.name}', sheet.to_markdown())
            self._add('results', 0, summary=text)

    def _add(self, stage: str, step: int, **what: Any) -> None:
        if stage not in self.files:
            (self.folder / stage).mkdir(parents=True, exist_ok=True)
            # The name's own clock has whole seconds, and the last file of a second would win.
            suffix = f'.{time.time_ns()}'
            self.files[stage] = self.open_file(str(self.folder / stage / 'events'), suffix)
            log = self.events.SessionLog
            self._add(stage, step, session_log=log(status=log.START))
        self.files[stage].write_event(self.events.Event(wall_time=time.time(), step=step, **what))

    def close(self) -> None:
        """Closes the event files."""
        for file in self.files.values():
            file.close()


class WandB(Writer):
    """Logs to Weights & Biases (`wandb` extra; WANDB_MODE=offline works without an account)."""

    def __init__(self, folder: Path, run: str, config: Mapping[str, Any]):
        mark, half = _wandb_id(folder), WANDB_NAME // 2
        # A long name is cut in the middle, for its seed stands last.
        name = run if len(run) <= WANDB_NAME else f'{run[: half - 1]}…{run[-half:]}'
        with _starting('wandb', 'Log in with `wandb login`, or set WANDB_MODE=offline.'):
            import wandb

            options = {'config': dict(config), 'dir': str(folder), 'resume': 'allow', 'id': mark}
            self.run = wandb.init(project='purify', name=name, **options)
        self.table, self.stages = wandb.Table, set()

    def write(self, stage: str, step: int, row: dict[str, float]) -> None:
        """Logs metrics named stage/metric over the stage's own step."""
        if stage not in self.stages:
            self.stages.add(stage)
            self.run.define_metric(f'{stage}/step', hidden=True)
            self.run.define_metric(f'{stage}/*', step_metric=f'{stage}/step')
        named = {f'{stage}/{name}': value for name, value in row.items()}
        self.run.log(named | {f'{stage}/step': step})

    def conclude(self, numbers: Mapping[str, float], sheets: Sequence[Sheet]) -> None:
        """Sets results/name in the summary, and logs every table."""
        self.run.summary.update({f'results/{name}': value for name, value in numbers.items()})
        tables = {}
        for sheet in sheets:
            rows = [list(row) for row in sheet.rows]
            tables[f'results/{sheet.name}'] = self.table(list(sheet.columns), rows)
        self.run.log(tables)

    def close(self) -> None:
        """Ends the W&B run."""
        self.run.finish()


def _wandb_id(folder: Path) -> str:
    """The id of the work folder's own W&B run, kept in a file so that a restart goes on with it."""
    mark = folder / WANDB_ID
    if mark.is_file():
        found = mark.read_bytes().strip()
        if re.fullmatch(rb'[a-z0-9]{4,64}', found):
            return found.decode()
        say(f'{mark}: holds no id of a W&B run; a new one is begun.')
    fresh = secrets.token_hex(4)
    write_bytes(mark, fresh.encode())
    return fresh


class Copy(Writer):
    """A writer whose failure is said once and stops nothing: files of the run hold all numbers."""

    def __init__(self, name: str, writer: Writer):
        self.name, self.writer, self.failed = name, writer, False

    def write(self, stage: str, step: int, row: dict[str, float]) -> None:
        """Hands on one row."""
        self._try(lambda: self.writer.write(stage, step, row))

    def conclude(self, numbers: Mapping[str, float], sheets: Sequence[Sheet]) -> None:
        """Hands on the results."""
        self._try(lambda: self.writer.conclude(numbers, sheets))

    def close(self) -> None:
        """Closes it, also one that failed before."""
        failed, self.failed = self.failed, False
        self._try(self.writer.close, quiet=failed)

    def _try(self, act: Callable[[], None], *, quiet: bool = False) -> None:
        if self.failed:
            return
        try:
            act()
        except Exception as error:
            # Whatever a library of others raises, on a full disk or without a network.
            self.failed = True
            say(
                f'run.writers: {self.name!r} failed and gets no more numbers'
                f' ({type(error).__name__}: {error}). The run goes on; metrics.jsonl and'
                ' results.json hold them all.',
                shown=not quiet,
            )


@contextlib.contextmanager
def open_writers(
    names: Sequence[str], folder: Path, run: str, config: Mapping[str, Any]
) -> Iterator[list[Writer]]:
    """While open, the writers of those `names` for the run `run`; closed whatever happens.

    Raises `UserError` for a name that is none, and for one that cannot be started. One that fails
    later stops nothing.
    """
    with contextlib.ExitStack() as stack:
        opened: list[Writer] = []
        for name in dict.fromkeys(names):
            opened.append(Copy(name, WRITERS.make(name, folder, run, config)))
            stack.callback(opened[-1].close)
        yield opened


def _say_cell(cell: Cell) -> str:
    text = '–' if cell is None else f'{cell:.6g}' if isinstance(cell, float) else str(cell)
    return ' '.join(text.split()).replace('|', '\\|')


WRITERS: Registry[Callable[..., Writer]] = Registry('writer', tensorboard=TensorBoard, wandb=WandB)
