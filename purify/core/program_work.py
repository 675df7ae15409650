"""What a compiled program does: bytes moved, kernels, exchanges between devices.

XLA's own cost analysis is not offered for GPUs that are not there, and takes the body of a loop
once. Here a loop counts as often as it runs, where that can be told, and of a choice the branch
that moves most. Bytes are those of the arrays, without the padding of a TPU's tiles.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from purify.core import hlo

# Names and views of what is there; and calls, whose bodies count instead.
_FREE = ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'iota')
_CALLS = ('while', 'conditional', 'call', 'async-start')
_SLICES = ('dynamic-slice', 'gather', 'slice')
_NO_WORK = ('AllocateBuffer', 'ConcatBitcast', 'Sharding')  # custom calls that do nothing
COLLECTIVES = ('all-reduce', 'all-gather', 'all-to-all', 'reduce-scatter', 'collective-permute')

Bodies = Mapping[str, hlo.Computation]  # computations by name

_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_KIND = re.compile(r'"kind":"(__[^"]+)"')
_SCRATCH = re.compile(r'(, (?:/\*index=\d+\*/)?[su]8\[\d+\](\{[^}]*\})?)+\)$')
_SCOPE = re.compile(r'op_name="([^"]*)"')


@dataclass
class Work:
    """What one run of a program does on one device.

    Attributes:
      moved: bytes read and written by what kind of kernel; loops as often as they run.
      kernels: how many kernels of a kind the program holds; loops once.
      launches: how many kernels run; loops as often as they run.
      collectives: how many exchanges between devices of a kind it holds; loops once.
      open_loops: loops of which nobody knows how often they run; they count once.
      host_transfers: exchanges between device and host.
    """

    moved: Counter[str] = field(default_factory=Counter)
    kernels: Counter[str] = field(default_factory=Counter)
    launches: int = 0
    collectives: Counter[str] = field(default_factory=Counter)
    open_loops: int = 0
    host_transfers: int = 0

    @property
    def bytes(self) -> int:
        """All bytes read from and written to the device's memory."""
        return self.moved.total()


def read_work(text: str) -> Work:
    """Reads what an optimised program does from `compiled.as_text()`."""
    computations, entry = hlo.parse(text)
    work = Work()
    for name, times in _reached(computations, entry, work):
        for one in computations[name].values():
            _count(computations, computations[name], one, times, work)
    return work


def _reached(computations: Bodies, entry: str, work: Work) -> Iterator[tuple[str, int]]:
    """The computations that run as such, outside kernels, and how often."""
    waiting = [(entry, 1)]
    while waiting:
        name, times = waiting.pop()
        yield name, times
        for one in computations[name].values():
            if one.code not in _CALLS:
                continue
            trips, called = 1, one.called()
            if one.code == 'while':
                known = hlo.trips(computations, computations[name], one)
                work.open_loops += known is None
                trips = known or 1
            if one.code == 'conditional':
                called = [max(called, key=lambda branch: _moves(computations, branch))]
            waiting += [(body, times * trips) for body in called]


def _moves(computations: Bodies, name: str) -> int:
    """Bytes that a computation moves, to tell which branch of a choice costs most."""
    work = Work()
    for reached, times in _reached(computations, name, work):
        for one in computations[reached].values():
            _count(computations, computations[reached], one, times, work)
    return work.bytes


def _count(
    computations: Bodies,
    own: hlo.Computation,
    one: hlo.Instruction,
    times: int,
    work: Work,
) -> None:
    target = _TARGET.search(one.rest)
    if one.code in (*_FREE, *_CALLS) or one.code.endswith('-done'):
        return
    if target and target[1] in _NO_WORK:
        return
    collective = one.code.removesuffix('-start')
    if collective in COLLECTIVES:
        work.collectives[collective] += 1
    if one.code in ('infeed', 'outfeed', 'send', 'recv') or 'S(5)' in one.shape:
        work.host_transfers += 1
    kind = _kind(computations, one)
    work.kernels[kind] += 1
    work.launches += times
    work.moved[kind] += times * _traffic(computations, own, one)


def _kind(computations: Bodies, one: hlo.Instruction) -> str:
    """What kind of kernel an instruction is: a library's, a product, or what XLA fused."""
    if found := _TARGET.search(one.rest):
        return found[1]
    codes = _codes(computations, one)
    matched = next((code for code in ('convolution', 'dot') if code in codes), None)
    scope = _SCOPE.search(one.rest)
    if matched and scope and 'attention_by_xla' in scope[1]:
        return 'attention_by_xla'
    if found := _KIND.search(one.rest):
        return f'{found[1]} {matched}' if matched else found[1]
    if matched:
        return matched
    if one.code == 'copy' or codes <= {'parameter', 'transpose', 'copy', 'bitcast', 'fusion'}:
        return 'transpose or copy'
    if codes <= {'parameter', 'convert', 'transpose', 'copy', 'bitcast', 'fusion'}:
        return 'convert'
    if codes & {'reduce', 'reduce-window'}:
        return 'fused sums'
    return 'fused element-wise' if one.code == 'fusion' else one.code


def _codes(computations: Bodies, one: hlo.Instruction) -> set[str]:
    """What is done in a kernel, in kernels inside it too."""
    inner = [it for name in one.called() for it in computations.get(name, {}).values()]
    return {one.code}.union(*(_codes(computations, it) for it in inner))


def _traffic(computations: Bodies, own: hlo.Computation, one: hlo.Instruction) -> int:
    """Bytes that an instruction reads and writes, of a slice only what is cut out."""
    shape = _SCRATCH.sub(')', one.shape) if one.code == 'custom-call' else one.shape
    written = hlo.size(shape)
    if one.code == 'slice-start':
        return (
            written
            - hlo.size(own[one.operands[0]].shape)
            + hlo.size(shape, everywhere=True, place=1)
        )
    if one.code.endswith('-start') and one.shape.startswith('('):  # lists what goes in, too
        return written
    if one.code in _SLICES:
        return 2 * written
    if one.code == 'dynamic-update-slice':  # in place
        return 2 * hlo.size(own[one.operands[1]].shape) if one.operands[1] in own else written
    sizes = [hlo.size(own[name].shape) if name in own else 0 for name in one.operands]
    if one.code != 'fusion':
        return written + sum(sizes)
    body = next((computations[name] for name in one.called() if name in computations), {})
    for inner in body.values():
        if inner.code == 'parameter':
            sizes[int(inner.given)] = min(_read(body, inner), sizes[int(inner.given)])
    for inner in body.values():  # a row of a longer array is written in place
        if inner.code == 'dynamic-update-slice' and inner.is_root and inner.operands[1] in body:
            row = hlo.size(body[inner.operands[1]].shape)
            whole = hlo.size(inner.shape)
            return row + sum(size for size in sizes if size != whole)
    return written + sum(sizes)


def _read(body: hlo.Computation, one: hlo.Instruction) -> int:
    """Bytes that a kernel reads of a value: what it cuts out of it, or all."""
    total = 0
    for user in body.values():
        if one.name not in user.operands:
            continue
        if user.code in _SLICES and user.operands[0] == one.name:
            total += hlo.size(user.shape)
        elif user.code in ('convert', 'bitcast', 'copy'):
            total += _read(body, user)
        else:
            return hlo.size(one.shape)
    return total or hlo.size(one.shape)
