"""What a stage cost: seconds, images, waiting, compiling, and the share of the peak it used."""

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, NotRequired, TypedDict

import jax
from msgspec import Meta

from purify.core.devices import peak_flops

COST_FILE = 'cost.json'  # in a stage's folder, until it is done
Amount = Annotated[float, Meta(ge=0, le=1e15)]  # of seconds, or of anything each second; never NaN
Whole = Annotated[int, Meta(ge=0, le=2**53)]
COUNTED = ('programs', 'from_cache')  # which an older version did not count
SUMMED = ('seconds', 'compile_seconds', 'wait_seconds', 'images', 'flops', 'network_calls')


class Totals(TypedDict):
    """The file cost.json: plain numbers, named as in `Cost`."""

    seconds: Amount
    compile_seconds: Amount
    wait_seconds: Amount
    images: Whole
    flops: Annotated[float, Meta(ge=0, le=1e30)]
    network_calls: NotRequired[Whole]  # which an older version did not count
    programs: NotRequired[Whole]  # likewise
    from_cache: NotRequired[Whole]  # likewise
    devices: Annotated[int, Meta(ge=1, le=2**31)]


class Spent(TypedDict):
    """What a finished stage cost, as results.json tells it; None where a number is not known."""

    seconds: Amount
    device_seconds: Amount
    compile_seconds: NotRequired[Amount]
    programs: NotRequired[Whole | None]
    from_cache: NotRequired[Whole | None]
    wait_share: NotRequired[Amount | None]
    images_per_s: NotRequired[Amount | None]
    images_per_s_per_device: NotRequired[Amount | None]
    network_calls: NotRequired[Whole | None]
    network_calls_per_s: NotRequired[Amount | None]
    mfu: NotRequired[Amount | None]
    devices: NotRequired[Whole]


class _Programs:
    """Counts the programs that this process asked XLA for, and those found in the cache."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = dict.fromkeys(COUNTED, 0)
        jax.monitoring.register_event_duration_secs_listener(self._compiled)
        jax.monitoring.register_event_listener(self._found)

    def _compiled(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        self.counts['programs'] += event == '/jax/core/compile/backend_compile_duration'

    def _found(self, event: str, **kwargs: Any) -> None:
        self.counts['from_cache'] += event == '/jax/compilation_cache/cache_hits'


@functools.cache
def _programs() -> _Programs:
    return _Programs()


def count_programs() -> dict[str, int]:
    """Counts the programs that this process got so far: {'programs', 'from_cache'}."""
    return dict(_programs().counts)


@dataclass
class Cost:
    """A stage's running totals, over restarts.

    Attributes:
      seconds: wall time.
      compile_seconds: of which compiling.
      wait_seconds: of which waiting for data.
      images: images processed, all hosts together.
      flops: floating-point operations of the programs that ran, one device (`purify.train.flops`).
      network_calls: evaluations of a prior's network, one for each image and call, all hosts
        together.
      programs: programs that XLA was asked for, on this host.
      from_cache: those of them that it found in the cache of compiled programs.
      devices: devices in use.
    """

    seconds: float = 0.0
    compile_seconds: float = 0.0
    wait_seconds: float = 0.0
    images: int = 0
    flops: float = 0.0
    network_calls: int = 0
    programs: int = 0
    from_cache: int = 0
    devices: int = field(default_factory=jax.device_count)
    begun: float = field(default_factory=time.monotonic)
    before: dict[str, int] = field(default_factory=count_programs)

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Adds the block's time to `name`: 'compile_seconds' or 'wait_seconds'."""
        begun = time.monotonic()
        try:
            yield
        finally:
            setattr(self, name, getattr(self, name) + time.monotonic() - begun)

    def resume(self, saved: Totals) -> None:
        """Takes over the totals of an earlier part of the same stage."""
        for name in (*SUMMED, *COUNTED):
            setattr(self, name, getattr(self, name) + saved.get(name, 0))

    def totals(self) -> Totals:
        """Plain numbers, up to now."""
        now = time.monotonic()
        totals: Any = asdict(self) | {'seconds': self.seconds + now - self.begun}
        for name, count in count_programs().items():
            totals[name] += count - self.before[name]
        for name in ('begun', 'before'):
            del totals[name]
        return totals


def summarize(totals: Totals) -> Spent:
    """Turns totals into the rates that `DONE` and results.json hold."""
    busy = totals['seconds'] - totals['compile_seconds']
    rate = totals['images'] / busy if totals['images'] and busy > 0 else None
    calls = totals.get('network_calls') or None
    peak = peak_flops()
    return {
        'seconds': totals['seconds'],
        'device_seconds': totals['seconds'] * totals['devices'],
        'compile_seconds': totals['compile_seconds'],
        'programs': totals.get('programs'),
        'from_cache': totals.get('from_cache'),
        'wait_share': totals['wait_seconds'] / busy if totals['images'] and busy > 0 else None,
        'images_per_s': rate,
        'images_per_s_per_device': rate / totals['devices'] if rate else None,
        'network_calls': calls,
        'network_calls_per_s': calls / busy if calls and busy > 0 else None,
        'mfu': totals['flops'] / (busy * peak) if peak and totals['flops'] and busy > 0 else None,
        'devices': totals['devices'],
    }
