"""The attacks by name."""

from purify.attacks.blended import Blended
from purify.attacks.none import NoAttack
from purify.attacks.patch import Patch
from purify.core.registry import Registry

ATTACKS = Registry('attack', none=NoAttack, patch=Patch, blended=Blended)
