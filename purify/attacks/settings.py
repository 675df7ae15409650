"""The part `attack` of a config, and the words that stand for an attack with other settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from purify.attacks.attack import Attack, TriggerFit
from purify.attacks.registry import ATTACKS, PUBLISHED
from purify.core.types import Facts


@dataclass(frozen=True)
class Word:
    """Another name for an attack of `ATTACKS`, with other settings and perhaps a fitted trigger."""

    attack: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    fit: TriggerFit | None = None


# Zhou et al. 2024, several targets: distinct colours, equal shares
_SECOND = {'target': 1, 'colours': ('#00ffff', '#7a7a7a', '#ff00ff', '#ffff00')}
_THIRD = {'target': 2, 'colours': ('#ff0000', '#00ff00', '#0000ff', '#ffffff')}
WORDS = {
    'two_patches': Word('dataelixir_patch', {'more': {'second': _SECOND}}),
    'three_patches': Word('dataelixir_patch', {'more': {'second': _SECOND, 'third': _THIRD}}),
    'fitted_low_frequency': Word('low_frequency', fit=TriggerFit(200, surrogate=True, width=0)),
}


def attack_words() -> tuple[str, ...]:
    """Every word for an attack: the names in `ATTACKS`, each followed by its `WORDS`."""
    own = {name: [word for word in WORDS if WORDS[word].attack == name] for name in ATTACKS}
    return tuple(word for name in ATTACKS for word in (name, *own[name]))


def attack_class(name: str) -> type[Attack]:
    """The class behind a word. Raises ValueError for an unknown one, with the choices."""
    if name not in attack_words():
        raise ValueError(f'attack={name!r}: choose from {", ".join(sorted(attack_words()))}.')
    return ATTACKS.bare(WORDS[name].attack if name in WORDS else name)


def preset(name: str, kind: str) -> Mapping[str, Any]:
    """An attack's preset `kind`; {} where it has none, and for the triggers of papers."""
    return {} if name in (*PUBLISHED, *WORDS) else attack_class(name).presets.get(kind, {})


def fit_of(name: str) -> TriggerFit | None:
    """How the trigger behind a word is fitted in a run; None where it needs no fit."""
    return WORDS[name].fit if name in WORDS else attack_class(name).fit


def attack(
    name: str, *, rate: float | str = 'usual', covers: float | None = None, **changes: Any
) -> Facts:
    """Makes the part `attack` of a config.

    `rate` is a share of `base`: 'all', 'nontarget' or 'target' training images; usually 10 %, 8 %
    for clean-label attacks, 1 % for the adaptive ones. `covers` is how many images cover for each
    poisoned one, by the attack's authors unless given. Raises ValueError for unknown names and
    settings.
    """
    kind, word = attack_class(name), WORDS.get(name, Word(name))
    try:
        share = kind.usual_rate if rate == 'usual' else float(rate)
    except ValueError:
        raise ValueError(f"rate={rate!r}: must be a number from 0 to 1, or 'usual'.") from None
    cover_rate = round(share * (kind.covers if covers is None else covers), 10)
    usual = {'rate': share if kind.usual_rate else 0.0, 'cover_rate': cover_rate}
    return ATTACKS.part(word.attack, usual, word.changes, changes)
