"""The kinds of numbers in results.json, with the bounds that a file is checked against."""

from typing import Annotated

from msgspec import Meta

Share = Annotated[float, Meta(ge=0, le=1)]
Number = Annotated[int, Meta(ge=-(10**15), le=10**15)] | Annotated[float, Meta(ge=-1e15, le=1e15)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Label = Annotated[int, Meta(ge=0, le=2**31)]
Pair = Annotated[list[Count], Meta(min_length=2, max_length=2)]  # hits, of so many
Interval = Annotated[list[Share], Meta(min_length=2, max_length=2)]
Line = tuple[str, str, str]  # name, value and meaning of a number as people read it
