"""Orbax checkpoints: a tree and its step, saved in the background, restored onto any mesh."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from purify.core.errors import UserError
from purify.core.files import explain_os_errors
from purify.core.types import Tree

NEXT = (
    'Build the network the checkpoint was made with (its network.json), or start from another;'
    ' where a training was to go on from it, delete this folder to train from the beginning.'
)


def _in_short(error: Exception) -> str:
    """An error in one line, cut; for damaged files orbax raises anything up to `Exception`."""
    return ' '.join(str(error).split())[:400]


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a tree, by its path."""
    named, _ = jax.tree.flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator='.'): tuple(x.shape)
        for path, x in named
        if hasattr(x, 'shape')
    }


class Checkpoints:
    """The checkpoints of one training stage, which are saved in the background.

    `save` returns at once; `close` waits until all is on disk. Raises `UserError` for a folder that
    cannot be made, or one that holds damaged checkpoints.
    """

    def __init__(self, folder: Path, *, create: bool = True):
        self.folder = Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, step_prefix='step', create=create, enable_async_checkpointing=True
        )
        try:
            with explain_os_errors(self.folder):
                self.manager = ocp.CheckpointManager(
                    self.folder, options=options, item_handlers=ocp.StandardCheckpointHandler()
                )
        except UserError:
            raise
        except Exception as error:
            told = f'{self.folder}: not a folder of checkpoints, or damaged'
            raise UserError(f'{told} ({_in_short(error)}). {NEXT}') from error

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return self.manager.latest_step()

    def save(self, step: int, tree: Tree) -> None:
        """Saves `tree` as `step`, unless it is there already.

        Raises `UserError` where the disk has no room for it.
        """
        with explain_os_errors(self.folder):
            if self.latest() != step:
                need = sum(getattr(leaf, 'nbytes', 8) for leaf in jax.tree.leaves(tree))
                # orbax would find out in its threads, with a trace from each.
                if shutil.disk_usage(self.folder).free < need:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self.manager.save(step, args=ocp.args.StandardSave(tree))

    def restore(self, like: Tree) -> tuple[int, Any]:
        """The newest step and its tree, laid out as `like`.

        `like` holds arrays, or `ShapeDtypeStruct`s with shardings. Raises `UserError` if nothing is
        saved, the saved tree has another structure, or its files are damaged, may not be read or do
        not fit into memory.
        """
        step = self.latest()
        if step is None:
            raise UserError(
                f'{self.folder}: no complete checkpoint. Give the folder of a finished training.'
            )
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        try:
            self._check_shapes(step, target)
            tree = self.manager.restore(step, args=ocp.args.StandardRestore(target))
            # orbax lets None stand for anything.
            if jax.tree.structure(tree) != jax.tree.structure(like):
                raise ValueError('tree structures do not match')
            return step, tree
        except Exception as error:
            here, told = f'{self.folder}: step {step}', _in_short(error)
            # No fault of the files.
            if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
                raise UserError(f'{here} does not fit into memory ({told}). Free some.') from error
            if isinstance(error, PermissionError) or os.strerror(errno.EACCES) in str(error):
                raise UserError(f'{here} may not be read ({told}). Ask for permission.') from error
            raise UserError(
                f'{here} does not fit this network, or is damaged ({told}). {NEXT}'
            ) from error

    def _check_shapes(self, step: int, target: Tree) -> None:
        """Raises `ValueError` for arrays of another shape, before orbax fails in its threads."""
        saved, wanted = _shapes(self.manager.item_metadata(step)), _shapes(target)
        for name in sorted(saved.keys() & wanted.keys()):
            if saved[name] != wanted[name]:
                raise ValueError(f'{name} is {saved[name]} there, {wanted[name]} in the network')

    def close(self) -> None:
        """Waits for pending saves."""
        with explain_os_errors(self.folder):
            self.manager.wait_until_finished()
            self.manager.close()
