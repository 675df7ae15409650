"""The attacks: how each changes an image and its label, and which images are poisoned.

from purify import attacks
attack = attacks.build('sinusoid', delta=40, frequency=6)
stamped = attack.stamp(image, id=17)        # u8[h w c] -> u8[h w c]
label = attack.relabel(label)
"""

from purify.attacks.attack import Attack
from purify.attacks.registry import ATTACKS, build

__all__ = ['ATTACKS', 'Attack', 'build']
