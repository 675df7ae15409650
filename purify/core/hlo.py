"""What a compiled program does, read from XLA's text of it: bytes moved, kernels, collectives.

XLA's own cost analysis is not offered for GPUs that are not there, and takes the body of a loop
once. Here a loop counts as often as it runs, where XLA knows how often that is.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# Names and views of what is there; and calls, whose bodies count instead.
_FREE = ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all', 'iota')
_CALLS = ('while', 'conditional', 'call', 'async-start')
_SLICES = ('dynamic-slice', 'gather', 'slice')
COLLECTIVES = ('all-reduce', 'all-gather', 'all-to-all', 'reduce-scatter', 'collective-permute')
_BITS = {'pred': 8, 'bf16': 16, 'u8': 8, 's8': 8, 's4': 4, 'u4': 4}  # others end in their number

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.$-]+) (?:\(.*)?\{$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.$-]+) = (.*)$')
_SHAPE = re.compile(r'\b([a-z]+\d*[a-z\d]*)\[([\d,]*)\](\{[^}]*\})?')
_NAME = re.compile(r'%([\w.$-]+)')
_CALLED = re.compile(
    r'\b(?:body|condition|to_apply|calls|branch_computations)=(\{[^}]*\}|%[\w.$-]+)'
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_KIND = re.compile(r'"kind":"(__[^"]+)"')
_SCOPE = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
      name: in its computation.
      code: XLA's name of what is done, such as 'fusion'.
      shape: the text of what comes out.
      given: what stands in its brackets: the names of its operands, or a parameter's number.
      rest: all that follows, as text.
      is_root: whether its computation gives it back.
    """

    name: str
    code: str
    shape: str
    given: str
    rest: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """The names of what goes in."""
        return _NAME.findall(self.given)

    def called(self) -> list[str]:
        """The computations that it names."""
        return [name for found in _CALLED.findall(self.rest) for name in _NAME.findall(found)]


Computation = dict[str, Instruction]


@dataclass
class Work:
    """What one run of a program does on one device.

    Attributes:
      moved: bytes read and written by what kind of kernel; loops as often as they run.
      kernels: how many kernels of a kind the program holds; loops once.
      launches: how many kernels run; loops as often as they run.
      collectives: how many words between devices of a kind it holds; loops once.
      open_loops: loops of which nobody knows how often they run; they count once.
      host_transfers: words between device and host.
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
    computations, entry = _parse(text)
    work = Work()
    for name, times in _reached(computations, entry, work):
        for one in computations[name].values():
            _count(computations, computations[name], one, times, work)
    return work


def _parse(text: str) -> tuple[Mapping[str, Computation], str]:
    computations: dict[str, Computation] = {}
    entry, now = '', None
    for line in text.splitlines():
        if now is None:
            if found := _COMPUTATION.match(line):
                now = computations.setdefault(found[2], {})
                entry = found[2] if found[1] else entry
        elif line.startswith('}'):
            now = None
        elif found := _INSTRUCTION.match(line):
            one = _read_instruction(*found.groups())
            now[one.name] = one
    if not entry:
        raise ValueError('no entry computation: this is no program of XLA.')
    return computations, entry


def _read_instruction(root: str | None, name: str, said: str) -> Instruction:
    """Reads `SHAPE code(given), rest`, where a shape may be a list in brackets."""
    end = _closing(said, 0) if said.startswith('(') else said.index(' ')
    code, _, _ = said[end:].lstrip(') ').partition('(')
    opened = said.index('(', end + 1)
    closed = _closing(said, opened)
    given, rest = said[opened + 1 : closed], said[closed + 1 :]
    return Instruction(name, code, said[: end + 1], given, rest, root is not None)


def _closing(text: str, opened: int) -> int:
    """The place of the bracket that closes the one at `opened`."""
    depth = 0
    for place in range(opened, len(text)):
        depth += (text[place] == '(') - (text[place] == ')')
        if not depth:
            return place
    return len(text)


def _reached(
    computations: Mapping[str, Computation], entry: str, work: Work
) -> Iterator[tuple[str, int]]:
    """The computations that run as such, outside kernels, and how often."""
    waiting = [(entry, 1)]
    while waiting:
        name, times = waiting.pop()
        yield name, times
        for one in computations[name].values():
            if one.code not in _CALLS:
                continue
            trips = 1
            if one.code == 'while':
                known = _TRIPS.search(one.rest)
                work.open_loops += known is None
                trips = int(known[1]) if known else 1
            waiting += [(called, times * trips) for called in one.called()]


def _count(
    computations: Mapping[str, Computation],
    own: Computation,
    one: Instruction,
    times: int,
    work: Work,
) -> None:
    if one.code in (*_FREE, *_CALLS) or one.code.endswith('-done'):
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


def _kind(computations: Mapping[str, Computation], one: Instruction) -> str:
    """What kind of kernel an instruction is: a library's, a product, or what XLA fused."""
    if found := _TARGET.search(one.rest):
        return found[1]
    bodies = [computations[name] for name in one.called() if name in computations]
    codes = {inner.code for body in bodies for inner in body.values()} | {one.code}
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


def _traffic(computations: Mapping[str, Computation], own: Computation, one: Instruction) -> int:
    """Bytes that an instruction reads and writes, of a slice only what is cut out."""
    written = _size(one.shape)
    if one.code.endswith('-start') and one.shape.startswith('('):  # lists what goes in, too
        return written
    if one.code in _SLICES:
        return 2 * written
    if one.code == 'dynamic-update-slice':  # in place
        return 2 * _size(own[one.operands[1]].shape) if one.operands[1] in own else written
    sizes = [_size(own[name].shape) if name in own else 0 for name in one.operands]
    if one.code != 'fusion':
        return written + sum(sizes)
    body = next((computations[name] for name in one.called() if name in computations), {})
    for inner in body.values():
        if inner.code == 'parameter':
            sizes[int(inner.given)] = min(_read(body, inner), sizes[int(inner.given)])
    for inner in body.values():  # a row of a longer array is written in place
        if inner.code == 'dynamic-update-slice' and inner.is_root and inner.operands[1] in body:
            row = _size(body[inner.operands[1]].shape)
            whole = _size(inner.shape)
            return row + sum(size for size in sizes if size != whole)
    return written + sum(sizes)


def _read(body: Computation, one: Instruction) -> int:
    """Bytes that a kernel reads of a value: what it cuts out of it, or all."""
    total = 0
    for user in body.values():
        if one.name not in user.operands:
            continue
        if user.code in _SLICES and user.operands[0] == one.name:
            total += _size(user.shape)
        elif user.code in ('convert', 'bitcast', 'copy'):
            total += _read(body, user)
        else:
            return _size(one.shape)
    return total or _size(one.shape)


def _size(shape: str) -> int:
    """Bytes in the device's main memory of all arrays in the text of a shape."""
    total = 0
    for kind, sides, layout in _SHAPE.findall(shape):
        if re.search(r'S\([1-9]', layout):  # another memory: on the chip, or the host's
            continue
        bits = _BITS.get(kind) or int((re.search(r'\d+', kind) or ['0'])[0])
        total += math.prod(int(side) for side in sides.split(',') if side) * bits // 8
    return total
