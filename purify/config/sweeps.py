"""Sweeps: the points of a config's `sweep_<name>()` functions, multiplied, also with seeds."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, cast

Point = dict[str, Any]


def sweep_functions(module: ModuleType) -> dict[str, Callable[[], Iterable[Point]]]:
    """The sweeps of a config file by name; they yield {'words': {...}, 'config.a.b': value}."""
    found = {}
    for name, value in vars(module).items():
        if name.startswith('sweep_') and callable(value):
            found[name.removeprefix('sweep_')] = cast(Callable[[], Iterable[Point]], value)
    return found


def multiply(sweeps: Sequence[Iterable[Point]], seeds: Sequence[int]) -> list[tuple[Point, int]]:
    """Every combination of a point of each sweep with each seed; ValueError if two set the same."""
    points = []
    for combination in itertools.product(*[list(sweep) for sweep in sweeps]):
        merged: Point = {}
        for part in combination:
            if clash := set(merged) & set(part):
                raise ValueError(f'two sweeps both set {", ".join(sorted(clash))}; run them apart.')
            merged |= part
        points += [(merged, seed) for seed in seeds]
    return points
