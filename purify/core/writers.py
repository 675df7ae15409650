"""Where numbers go: metrics.jsonl is the record; TensorBoard and Weights & Biases are optional copies."""

import json
import math
from pathlib import Path
from typing import Any, Protocol

from purify.core.errors import UserError
from purify.core.files import explain_os_errors, write_bytes
from purify.core.registry import Registry


class Writer(Protocol):
    """Takes one row of numbers of a stage at a step."""

    def write(self, stage: str, step: int, row: dict[str, float]) -> None:
        """Writes one row."""
        ...

    def close(self) -> None:
        """Flushes."""
        ...


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line cut by a kill is left out."""
    rows = []
    for line in path.read_text(encoding='utf-8').splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class JsonLines:
    """Appends to `path`. Opened at `step`, it first drops rows after it: they will be written again."""

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


class TensorBoard:
    """Writes event files under `folder` (needs the `tensorboard` extra)."""

    def __init__(self, folder: Path, run: str):
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise UserError("run.writers has 'tensorboard': install the extra, pip install 'purify[tensorboard]'.") from error
        self.writer = SummaryWriter(str(folder / 'tensorboard' / run))

    def write(self, stage: str, step: int, row: dict[str, float]) -> None:
        """Writes scalars named stage/metric."""
        for name, value in row.items():
            self.writer.add_scalar(f'{stage}/{name}', value, step)

    def close(self) -> None:
        """Closes the event file."""
        self.writer.close()


class WandB:
    """Logs to Weights & Biases (needs the `wandb` extra; WANDB_MODE=offline works without an account)."""

    def __init__(self, folder: Path, run: str):
        try:
            import wandb
        except ImportError as error:
            raise UserError("run.writers has 'wandb': install the extra, pip install 'purify[wandb]'.") from error
        mark = folder / 'wandb_id'  # a run of its own for each work folder, the same one after a restart
        if not mark.exists():
            write_bytes(mark, wandb.util.generate_id().encode())
        self.run = wandb.init(project='purify', name=run, dir=str(folder), resume='allow', id=mark.read_text())

    def write(self, stage: str, step: int, row: dict[str, float]) -> None:
        """Logs metrics named stage/metric with the stage's own step."""
        self.run.log({f'{stage}/{name}': value for name, value in row.items()} | {f'{stage}/step': step})

    def close(self) -> None:
        """Ends the W&B run."""
        self.run.finish()


WRITERS = Registry('writer', tensorboard=TensorBoard, wandb=WandB)
