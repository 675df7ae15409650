"""No defence: what training on the poisoned dataset does."""

from dataclasses import dataclass

from purify.core.types import Settings
from purify.defenses.method import Defense, Method


@dataclass(frozen=True)
class NoDefense(Defense):
    """Nothing but the teacher: what training on the poisoned dataset does."""

    def method(self, student: Settings) -> Method:
        """No step."""
        return Method()
