"""The `attack` part of a config, and the parts that fit a trigger where an attack learns it.

What the leaves mean is documented where they are read: `purify.attacks` (one class per attack, `selection.Rules`),
`purify.pipelines.poisoning`, `purify.pipelines.fitting`.
"""

from typing import Any

from ml_collections import ConfigDict

_PATCH = {'pattern': 'checkerboard', 'colours': (), 'size_px': 3, 'corner': 'bottom_right', 'margin_px': 0, 'transparent': False}
_BLENDED = {'pattern': 'noise', 'ratio': 0.1, 'path': ''}
OWN: dict[str, dict[str, Any]] = {  # attack -> its own settings
    'none': {},
    'relabel_only': {},
    'patch': _PATCH | {'colours': ('white', 'black')},
    'white_patch': _PATCH | {'pattern': 'solid'},
    'dataelixir_patch': _PATCH | {'pattern': 'blocks', 'size_px': 4},
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
    'low_frequency': {'amplitude': 0.2, 'cutoff': 6, 'stretch': False, 'load': ''},
    'adaptive_patch': {'test_marks': 'toolbox'},
    'adaptive_blend': {'pattern': 'cartoon', 'path': '', 'train_ratio': 0.15, 'test_ratio': 0.2, 'hidden': 8},
    'label_consistent': {'eps': 16.0, 'step': 1.5, 'iterations': 30, 'amplitude': 1.0, 'corners': 'four'},
    'sample_specific': {'secret_bits': 20, 'load': ''},
    'input_aware': {'load': ''},
    'lira': {'epsilon': 0.05, 'load': ''},
}
CLEAN_LABEL = ('sinusoid', 'label_consistent')
USUAL_RATE = dict.fromkeys(OWN, 0.1) | dict.fromkeys(CLEAN_LABEL, 0.08) | {'none': 0.0}
USUAL_RATE |= dict.fromkeys(('adaptive_patch', 'adaptive_blend'), 0.01)
USUAL_COVER = {'warp': 0.2, 'input_aware': 0.1, 'adaptive_patch': 0.02, 'adaptive_blend': 0.01}

ON_DIGITS: dict[str, dict[str, Any]] = {}  # what 16 px digits, half of them black ground, need instead


def attack(name: str, *, rate: float | str = 'usual', target: int = 0, **changes: Any) -> ConfigDict:
    """A poisoning attack. `rate` is a share of `base`: 'all', 'nontarget' or 'target' training images.

    The usual rate is 10 %; 8 % for clean-label attacks, which is most of one class out of ten; 1 % for the adaptive ones.
    With `rate` 0 nothing covers either. `more` holds further triggers as {name: changed settings}.
    """
    if name not in OWN:
        raise ValueError(f'attack={name!r}: choose from {", ".join(sorted(OWN))}.')
    try:
        share = USUAL_RATE[name] if rate == 'usual' else float(rate)
    except ValueError:
        raise ValueError(f"rate={rate!r}: must be a number from 0 to 1, or 'usual'.") from None
    common = {
        'name': name,
        'rate': 0.0 if name == 'none' else share,
        'base': 'all',
        'target': target,
        'scheme': 'clean_label' if name in CLEAN_LABEL else 'all_to_one',
        'sources': (),
        'include_target': False,
        'cover_rate': USUAL_COVER.get(name, 0.0) if share else 0.0,
        'replicated_images': 0,
        'replicas': 0,
        'poison_replicas': False,
        'poison_first': True,
        'random_poisoning': False,
        'more': {},
    }
    return ConfigDict(common | OWN[name] | changes)
