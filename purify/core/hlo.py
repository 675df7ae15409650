"""XLA's text of a compiled program, read: its computations, their instructions, sizes and loops."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_BITS = {'pred': 8}  # others end in their number
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.$-]+) (?:\(.*)?\{$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.$-]+) = (.*)$')
_SHAPE = re.compile(r'\b([a-z]+\d*[a-z\d]*)\[([\d,]*)\](\{[^}]*\})?')
_NAME = re.compile(r'%([\w.$-]+)')
_CALLED = re.compile(
    r'\b(?:body|condition|to_apply|calls|branch_computations|true_computation|false_computation)'
    r'=(\{[^}]*\}|%[\w.$-]+)'
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONDITION = re.compile(r'condition=%([\w.$-]+)')
_INDEX = re.compile(r'index=(\d+)')


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


def parse(text: str) -> tuple[Mapping[str, Computation], str]:
    """Reads a program's computations by name, and which of them it begins with.

    Raises ValueError for what is no program.
    """
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


def trips(
    computations: Mapping[str, Computation], own: Computation, loop: Instruction
) -> int | None:
    """How often a loop runs: as XLA says, or up to the constant that its counter is held against.

    None where that is not known.
    """
    if said := _TRIPS.search(loop.rest):
        return int(said[1])
    found = _CONDITION.search(loop.rest)
    condition = computations.get(found[1], {}) if found else {}
    root = next((one for one in condition.values() if one.is_root), None)
    if root is None or root.code != 'compare' or 'direction=LT' not in root.rest:
        return None
    counter, end = (condition.get(name) for name in root.operands)
    start = own.get(loop.operands[0])
    if counter is None or end is None or start is None or end.code != 'constant':
        return None
    place = _INDEX.search(counter.rest)
    if counter.code != 'get-tuple-element' or place is None or start.code != 'tuple':
        return None
    first: Instruction | None = own.get(start.operands[int(place[1])])
    while first is not None and first.code == 'copy':
        first = own.get(first.operands[0])
    if first is None or first.code != 'constant':
        return None
    return max(int(end.given) - int(first.given), 0)


def size(shape: str, *, everywhere: bool = False, place: int | None = None) -> int:
    """Bytes in the device's main memory, or everywhere, of the arrays in the text of a shape.

    Of all, or of the one at `place`.
    """
    total, arrays = 0, _SHAPE.findall(shape)
    for kind, sides, layout in arrays if place is None else arrays[place : place + 1]:
        # another memory: on the chip, or the host's
        if not everywhere and re.search(r'S\([1-9]', layout):
            continue
        bits = _BITS.get(kind) or int((re.search(r'\d+', kind) or ['0'])[0])
        total += math.prod(int(side) for side in sides.split(',') if side) * bits // 8
    return total
