"""The tensors of safetensors files: names and shapes from their headers, values when asked for."""

import copy
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from purify.core.errors import UserError

_FLOATS = ('F16', 'BF16', 'F32', 'F64')  # in the words of safetensors
# not weights: old files hold them, we do not need them
BUFFERS = re.compile(r'(^|\.)(position_ids|num_batches_tracked)$')


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of safetensors files, each read when it is asked for, as float32; no buffers."""

    def __init__(self, files: list[Path]):
        from safetensors import SafetensorError, safe_open

        self.files = files
        self._sources: dict[str, Path] = {}
        self._opened: dict[Path, Any] = {}
        for file in files:
            if file.is_dir():
                raise UserError(
                    f'{file}: is a folder, where a file of weights should be. Give the safetensors'
                    ' file itself.'
                )
            try:
                self._opened[file] = opened = safe_open(file, 'np')
            except (SafetensorError, OSError, ValueError) as error:
                raise UserError(
                    f'{file}: not a readable safetensors file ({error}). Download or write it'
                    ' again.'
                ) from error
            names = [name for name in opened.keys() if not BUFFERS.search(name)]  # noqa: SIM118
            if twice := [name for name in names if name in self._sources]:
                raise UserError(
                    f'{file}: holds {twice[0]}, but so does {self._sources[twice[0]]}. Download'
                    ' both again.'
                )
            self._sources |= dict.fromkeys(names, file)

    def check_index(self, index: Path, weight_map: Mapping[str, str]) -> None:
        """Raises `UserError` where an index of shards contradicts what the files hold."""
        listed = {name: file for name, file in weight_map.items() if not BUFFERS.search(name)}
        held = {name: file.name for name, file in self._sources.items()}
        wrong = [
            f'{name} ({listed.get(name, "nowhere")} there, {held.get(name, "nowhere")} in truth)'
            for name in sorted(listed.keys() | held.keys())
            if listed.get(name) != held.get(name)
        ]
        if wrong:
            raise UserError(
                f'{index}: contradicts the files beside it about {len(wrong)} tensors:'
                f' {", ".join(wrong[:3])}. Download them again.'
            )

    def within(self, prefixes: tuple[str, ...]) -> 'Tensors':
        """The tensors whose names begin with one of `prefixes`."""
        part = copy.copy(self)
        kept = (name for name in self._sources if name.startswith(prefixes))
        part._sources = {name: self._sources[name] for name in kept}
        return part

    def __getitem__(self, name: str) -> np.ndarray:
        from safetensors import SafetensorError

        self._check_types([name])
        try:
            tensor = self._opened[self._sources[name]].get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f'{self._sources[name]}: {name} cannot be read ({error}). Download or write it'
                ' again.'
            ) from error
        # whoever takes weights refuses infinities and NaN by name
        with np.errstate(over='ignore', invalid='ignore'):
            return tensor.astype(np.float32, copy=False)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by its name, from the headers of the files alone.

        Raises `UserError` where one is not of floats.
        """
        self._check_types(self._sources)
        return {name: tuple(self._slice(name).get_shape()) for name in self._sources}

    def _slice(self, name: str) -> Any:
        return self._opened[self._sources[name]].get_slice(name)

    def _check_types(self, names: Any) -> None:
        types = {name: str(self._slice(name).get_dtype()) for name in names}
        strange = [name for name, kind in types.items() if kind not in _FLOATS]
        if strange:
            listed = ', '.join(f'{name} ({types[name]})' for name in strange[:6])
            raise UserError(
                f'{self._sources[strange[0]]}: {len(strange)} tensors are not of float16, bfloat16,'
                f' float32 or float64: {listed}. What is stored in fewer bits is read by the'
                ' program that wrote it alone: take the weights as one of these types.'
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)
