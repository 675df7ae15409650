"""The defences by name."""

from purify.core.registry import Registry
from purify.defenses.students import Augmentations, NoDefense
from purify.defenses.variations import Variations

DEFENSES = Registry('defense', none=NoDefense, augmentations=Augmentations, variations=Variations)
