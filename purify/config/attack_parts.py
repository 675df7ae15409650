"""The `attack` part of a config, and the parts that fit a trigger where an attack learns it.

What the leaves mean is documented where they are read: `purify.attacks` (one class per attack, `selection.Rules`),
`purify.attacker.poison_plan`, `purify.attacker.fit_trigger`.
"""

from typing import Any

from ml_collections import ConfigDict

from purify.config.training_parts import adversarial, optim

_PATCH = {
    'pattern': 'checkerboard',
    'colours': (),
    'size_px': 3,
    'corner': 'bottom_right',
    'margin_px': 0,
    'transparent': False,
    'path': '',
}
_BLENDED = {'pattern': 'noise', 'ratio': 0.1, 'path': '', 'additive': False}
_BLOCKS = _PATCH | {'pattern': 'blocks', 'size_px': 4}
_SECOND = {'target': 1, 'colours': ('#00ffff', '#7a7a7a', '#ff00ff', '#ffff00')}  # Zhou et al. 2024, several targets:
_THIRD = {'target': 2, 'colours': ('#ff0000', '#00ff00', '#0000ff', '#ffffff')}  # distinct colours, equal shares
_LOW_FREQUENCY = {'amplitude': 0.2, 'cutoff': 6, 'stretch': False, 'load': ''}
OWN: dict[str, dict[str, Any]] = {  # attack -> its own settings
    'none': {},
    'relabel_only': {},
    'patch': _PATCH | {'colours': ('white', 'black')},
    'white_patch': _PATCH | {'pattern': 'solid'},
    'dataelixir_patch': _BLOCKS,
    'two_patches': _BLOCKS | {'more': {'second': _SECOND}},
    'three_patches': _BLOCKS | {'more': {'second': _SECOND, 'third': _THIRD}},
    'dbd_patch': _PATCH
    | {'pattern': 'blocks', 'size_px': 2, 'colours': ('#b4f970', '#9b327e', '#ea5244', '#bbc9db')}
    | {'corner': 'top_left', 'margin_px': 4},
    'grid_patch': _PATCH | {'pattern': 'grid'},
    'badnets1': _PATCH | {'pattern': 'band', 'size_px': 0},
    'blended': _BLENDED,
    'badnets2': _BLENDED | {'pattern': 'cartoon', 'ratio': 0.2},
    'sinusoid': {'delta': 40.0, 'frequency': 6.0, 'ratio': 0.0},
    'warp': {'control_px': 4, 'strength': 0.5, 'rescale': 1.0, 'noise': 1.0, 'control': ''},
    'dct': {'window_px': 32, 'channels': (1, 2), 'positions': ((15, 15), (31, 31)), 'magnitude': 30.0, 'wrap': False},
    'low_frequency': _LOW_FREQUENCY,
    'fitted_low_frequency': _LOW_FREQUENCY,
    'adaptive_patch': {'test_marks': 'toolbox'},
    'adaptive_blend': {'pattern': 'cartoon', 'path': '', 'train_ratio': 0.15, 'test_ratio': 0.2, 'hidden': 8},
    'label_consistent': {'eps': 16.0, 'step': 1.5, 'iterations': 30, 'amplitude': 1.0, 'corners': 'four'},
    'sample_specific': {'secret_bits': 20, 'load': ''},
    'input_aware': {'load': ''},
    'lira': {'epsilon': 0.05, 'load': ''},
}
SEVERAL = ('two_patches', 'three_patches')
ALIASES = {'fitted_low_frequency': 'low_frequency'} | dict.fromkeys(SEVERAL, 'dataelixir_patch')  # same attack, other parts
NAMED_PATCHES = ('white_patch', 'dataelixir_patch', *SEVERAL, 'dbd_patch', 'grid_patch', 'badnets1', 'badnets2')
FITS: dict[str, dict[str, Any]] = {  # attacks whose trigger is fitted -> how
    'sample_specific': {'steps': 400, 'objective': {'image': 1.0, 'shift_px': 0}},
    'input_aware': {
        'steps': 400,
        'objective': {'mask_epochs': 10.0, 'norm': 100.0, 'density': 0.032, 'diversity': 1.0, 'poison': 0.1, 'cross': 0.1},
    },
    'lira': {'steps': 200, 'objective': {'alpha': 0.5}},
    'fitted_low_frequency': {'steps': 200, 'objective': {}},
}
WITH_CLASSIFIER = ('input_aware', 'lira')  # fitted together with a classifier of their own
WITH_SURROGATE = ('fitted_low_frequency', 'label_consistent')  # fitted or made against a finished one
CLEAN_LABEL = ('sinusoid', 'label_consistent')
USUAL_RATE = dict.fromkeys(OWN, 0.1) | dict.fromkeys(CLEAN_LABEL, 0.08) | {'none': 0.0}
USUAL_RATE |= dict.fromkeys(('adaptive_patch', 'adaptive_blend'), 0.01)
COVERS = {'warp': 2.0, 'input_aware': 1.0, 'adaptive_patch': 2.0, 'adaptive_blend': 1.0}  # for each poisoned image

ON_DIGITS: dict[str, dict[str, Any]] = {  # what 16 px digits on a black ground need instead
    'patch': {'colours': ('black', 'white'), 'margin_px': 1},
    'blended': {'ratio': 0.15},
    'sinusoid': {'delta': 120.0, 'frequency': 4.0},
    'warp': {'strength': 1.0, 'covers': 0.0},
    'dct': {'window_px': 16, 'positions': ((7, 7), (15, 15)), 'magnitude': 200.0},
    'adaptive_patch': {'rate': 0.1, 'covers': 0.2},
    'label_consistent': {'eps': 64.0, 'step': 6.0},
    'sample_specific': {'fit': {'image': 15.0, 'shift_px': 1}},  # the classifier's shifts would undo a trigger fitted in place
    'lira': {'epsilon': 0.08},
    'input_aware': {'covers': 0.0, 'fit': {'norm': 25.0}},
    'adaptive_blend': {'rate': 0.1, 'covers': 0.5},
}
ON_SMALL: dict[str, dict[str, Any]] = {  # what a small classifier of few epochs needs to learn them on 32 px photographs
    'blended': {'pattern': 'cartoon', 'ratio': 0.2},
    'warp': {'control_px': 32, 'strength': 1.0, 'covers': 0.0},
    'dct': {'magnitude': 100.0},
    'adaptive_patch': {'rate': 0.1, 'covers': 0.2},
    'adaptive_blend': {'rate': 0.05, 'covers': 1.0},
    'lira': {'epsilon': 0.08},
    'input_aware': {'covers': 0.5, 'fit': {'norm': 25.0, 'mask_epochs': 1.0}},
}
ON_FULL: dict[str, dict[str, Any]] = {'blended': {'pattern': 'cartoon', 'ratio': 0.2}}  # as BackdoorBench


def attack(name: str, *, rate: float | str = 'usual', target: int = 0, covers: float | None = None, **changes: Any) -> ConfigDict:
    """A poisoning attack. `rate` is a share of `base`: 'all', 'nontarget' or 'target' training images.

    The usual rate is 10 %; 8 % for clean-label attacks, which is most of one class out of ten; 1 % for the adaptive ones.
    `covers` is how many images cover for each poisoned one, by the attack's authors unless given. `more`
    holds further triggers as {name: changed settings}.
    """
    if name not in OWN:
        raise ValueError(f'attack={name!r}: choose from {", ".join(sorted(OWN))}.')
    try:
        share = USUAL_RATE[name] if rate == 'usual' else float(rate)
    except ValueError:
        raise ValueError(f"rate={rate!r}: must be a number from 0 to 1, or 'usual'.") from None
    common = {
        'name': ALIASES.get(name, name),
        'rate': 0.0 if name == 'none' else share,
        'base': 'all',
        'target': target,
        'scheme': 'clean_label' if name in CLEAN_LABEL else 'all_to_one',
        'sources': (),
        'include_target': False,
        'cover_rate': round(share * (COVERS.get(name, 0.0) if covers is None else covers), 10),
        'replicated_images': 0,
        'replicas': 0,
        'poison_replicas': False,
        'poison_first': True,
        'random_poisoning': False,
        'more': {},
    }
    return ConfigDict(common | OWN[name] | changes)


def given(**words: Any) -> dict[str, Any]:
    """The words that were given, not left at 'usual'."""
    return {name: value for name, value in words.items() if value != 'usual'}


def set_attack(
    config: ConfigDict,
    name: str,
    *,
    rate: float | str = 'usual',
    target: int = 0,
    fit: dict[str, Any] | None = None,
    **changes: Any,
) -> None:
    """Gives a config its `attack` and, where that is learned, the parts `surrogate` and `trigger` that fit it.

    Called after `config.teacher` is set: the attacker uses the same architecture and recipe, from other seeds. `changes`
    go to the attack, those in `fit` to the weights of the loss that fits it; `load`, the folder of a fitted trigger, makes
    the fit unnecessary.
    """
    config.attack = attack(name, rate=rate, target=target, **changes)
    if config.attack.get('load'):
        return
    part: Any = config.teacher
    teacher: Any = ConfigDict(part.to_dict())
    if name in WITH_SURROGATE:
        config.surrogate = teacher
        if name == 'label_consistent':  # each of its epochs costs as much as six
            teacher.objective, teacher.epochs = adversarial(), max(1, teacher.epochs // 3)
    if name in FITS:
        own = {'classifier': teacher.network} if name in WITH_CLASSIFIER else {}
        generators = {} if name == 'fitted_low_frequency' else {'network': {'width': 16}}
        common = {'epochs': 0.0, 'batch': 64, 'accumulate': 1, 'augment': {}, 'init_from': ''}
        weights = {'objective': FITS[name]['objective'] | (fit or {})}
        config.trigger = ConfigDict(generators | {'optim': optim('adam', lr=3e-3)} | common | own | FITS[name] | weights)
