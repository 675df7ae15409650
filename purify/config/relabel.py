"""The experiments of Sabolić 2024: the digits and its three datasets, its baselines, and its tables as the points of sweeps."""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from purify.config import attack_parts, cleaners, parts
from purify.config.arguments import parse_words

BASELINES = ('nad', 'abl', 'dbd', 'asd')
METHODS = ('relabel', *BASELINES)
CLIP = 'openai/clip-vit-base-patch32'
_FEATURES = ('simclr', 'teacher', 'clip', 'encoder')
_FLIP = {'flip': {'p': 0.5}}
_CORNER = {'corner': 'top_left', 'margin_px': 0}
_ON_CIFAR: dict[str, dict[str, Any]] = {  # appendix B; their picture is not ours to pass on: a drawn one is mixed in
    'blended': {'pattern': 'cartoon', 'ratio': 0.1},
    'label_consistent': {'rate': 0.25, 'base': 'target'},
    'adaptive_patch': {'covers': 1.0},
}
_ON_LARGE: dict[str, dict[str, Any]] = {  # 224 px
    'patch': {'size_px': 32, 'pattern': 'blocks', 'colours': ()} | _CORNER,
    'blended': {'pattern': 'noise', 'ratio': 0.1},
    'warp': {'control_px': 0, 'strength': 1.0, 'covers': 0.0},
}
Points = Iterator[dict[str, Any]]


def words_of(arg: str | None) -> Any:
    """The words of `configs/relabel.py`. Raises ValueError for those that do not go together."""
    own = {'setting': 'digits', 'source': 'usual', 'features': 'usual', 'encoder': ''}
    words = parse_words(arg, attack='usual', rate='usual', seed=0, defense='relabel', **own)
    choices = {'setting': SETTINGS, 'defense': (*METHODS, 'none'), 'features': (*_FEATURES, 'usual')}
    for name, offered in choices.items():
        if words[name] not in offered:
            raise ValueError(f'{name}={words[name]!r}: choose from {", ".join(sorted(offered))}.')
    if words.features != 'usual' and words.defense != 'relabel':
        raise ValueError(f'features is a word of defense=relabel; defense={words.defense} has no use for it.')
    if bool(words.encoder) != (words.features == 'encoder'):
        raise ValueError('features=encoder and encoder=<a folder or hub id> go together; give both, or none of them.')
    if words.setting == 'digits' and words.source != 'usual':
        raise ValueError(f'setting=digits brings its images; for source={words.source} choose another setting.')
    if words.setting == 'cifar10_small' and words.source == 'usual':
        raise ValueError('setting=cifar10_small needs source=arrays:DIR (train.npz, test.npz) or another source of 32 px.')
    return words


def _digits(words: Any) -> ConfigDict:
    """The quickstart's 16 px digits and its victim."""
    config = parts.run_config('relabel', words.seed, shard_size=100, save_every=100)
    config.source = parts.source('digits', size_px=16, channels=1, resample='nearest')
    config.teacher = parts.small_classifier({'pad_crop': {'pad_px': 1}}, parts.classify(), epochs=30)
    half = {'label_consistent': attack_parts.ON_DIGITS['label_consistent'] | {'rate': 0.05}}  # of the target class
    return _complete(config, words, 'patch', attack_parts.ON_DIGITS | half, cleaners.SMALL, semi_steps=1500)


def _cifar10(words: Any) -> ConfigDict:
    """ResNet-18 for 200 epochs, and another by SimCLR."""
    config = parts.run_config('relabel', words.seed, inference_batch=1024, batch_per_device=1024)
    config.source = parts.source('tfds:cifar10' if words.source == 'usual' else words.source, size_px=32)
    config.teacher = _victim('resnet18', 200, parts.CIFAR_SCALE, {'resized_crop': {'scale': (0.2, 1.0)}} | _FLIP)
    network = parts.network('resnet18', dtype='bfloat16', **parts.CIFAR_SCALE)
    recipes = {
        'relabel': {'encoder': cleaners.encoder(network, epochs=500, views=parts.random_views())},
        'dbd': {'encoder_epochs': 1000},
    }
    return _complete(config, words, 'dbd_patch', _ON_CIFAR, recipes, semi_steps=_semi_steps(words))


def _cifar10_small(words: Any) -> ConfigDict:
    """5,000 images and ResNets of width 16, for a CPU."""
    config = parts.run_config('relabel', words.seed, shard_size=250, save_every=200)
    config.source = parts.source(words.source, size_px=32, train_size=5000, test_size=1000)
    network = parts.network('resnet', stages=(1, 1, 1), block='preact', width=16, norm='group', **parts.CIFAR_SCALE)
    how, augment = parts.optim('adamw', lr=3e-3), {'pad_crop': {'pad_px': 2}} | _FLIP
    config.teacher = parts.classifier(network, how, epochs=10, batch=64, augment=augment, objective=parts.classify())
    small = cleaners.encoder(network, epochs=20, lr=2e-3, projection=64)
    recipes = cleaners.SMALL | {'relabel': {'encoder': small}, 'dbd': {'encoder_epochs': 60, 'batch': 128, 'lr': 0.1}}
    return _complete(config, words, 'patch', attack_parts.ON_SMALL, recipes, semi_steps=500)


def _imagenet30(words: Any) -> ConfigDict:
    """30 classes of ImageNet at 224 px: ResNet-18 for 90 epochs."""
    source = {'classes': '30'} if words.source == 'usual' else {}
    return _large(words, 'resnet18', 'tfds:imagenet2012', source)


def _vggface30(words: Any) -> ConfigDict:
    """30 people of VGGFace2 at 224 px: DenseNet-121 for 90 epochs."""
    return _large(words, 'densenet121', 'imagefolder:vggface2-30', {})


def _large(words: Any, network: str, source: str, sizes: dict[str, Any]) -> ConfigDict:
    config = parts.run_config('relabel', words.seed, inference_batch=256, batch_per_device=256)
    config.source = parts.source(source if words.source == 'usual' else words.source, size_px=224, **sizes)
    augment = {'resized_crop': {'scale': (0.2, 1.0)}} | _FLIP
    config.teacher = _victim(network, 90, parts.IMAGENET_SCALE, augment, stem='imagenet')
    backbone = parts.network('resnet18', dtype='bfloat16', stem='imagenet', **parts.IMAGENET_SCALE)
    views = parts.random_views(crop=(0.08, 1.0), strength=0.8, blur=0.5)
    usual = parts.relabel(features='teacher').to_dict()
    few = {
        'flows': usual['flows'] | {'reduce': 64},
        'fit': usual['fit'] | {'members': 5},
    }  # images of a class: 300 of VGGFace2, 1,300 of ImageNet
    recipes = {
        'relabel': {'encoder': cleaners.encoder(backbone, epochs=200, views=views)} | few,
        'dbd': {'encoder_epochs': 500, 'batch': 256},
    }
    return _complete(config, words, 'patch', _ON_LARGE, recipes, semi_steps=_semi_steps(words))


SETTINGS = {
    'digits': _digits,
    'cifar10': _cifar10,
    'cifar10_small': _cifar10_small,
    'imagenet30': _imagenet30,
    'vggface30': _vggface30,
}


def _semi_steps(words: Any) -> int:
    """Of MixMatch, by DBD's authors 190 and by ASD's 120 times 1,024."""
    return 1024 * (190 if words.defense == 'dbd' else 120)


def _victim(network: str, epochs: float, scale: dict[str, Any], augment: dict[str, Any], **built: Any) -> ConfigDict:
    """SGD, rate .1, divided by 10 at a half and three quarters (appendix B)."""
    how = parts.optim('sgd', lr=0.1, schedule='step', drops=(0.5, 0.75))
    whole = parts.network(network, dtype='bfloat16', **scale, **built)
    return parts.classifier(whole, how, epochs=epochs, batch=128, augment=augment, objective=parts.classify())


def _complete(
    config: ConfigDict,
    words: Any,
    usual: str,
    changes: dict[str, dict[str, Any]],
    recipes: dict[str, dict[str, Any]],
    *,
    semi_steps: int,
) -> ConfigDict:
    """The attack and the defence of a config that has its source and teacher."""
    name = usual if words.attack == 'usual' else words.attack
    parts.set_attack(config, name, **changes.get(name, {}) | parts.given(rate=words.rate))
    if words.defense == 'none':
        return config
    own = dict(recipes.get('relabel', {}))
    if words.features not in ('usual', 'simclr'):
        own = {key: value for key, value in own.items() if key != 'encoder'}
        own['features'] = 'teacher' if words.features == 'teacher' else 'encoder'
        if words.features != 'teacher':
            config.encoder = parts.loaded_encoder(words.encoder or CLIP)
    cleaners.defend(config, words.defense, recipes | {'relabel': own}, semi_steps=semi_steps)
    return config


# the tables: every point is one run, whose teacher is the column 'no defense' ----------------------------------------------

_OF_TABLE_1 = ('usual', 'blended', 'warp', 'label_consistent', 'sample_specific', 'adaptive_patch', 'adaptive_blend')
_OF_TABLE_3 = ('usual', 'blended', 'warp')


def table1() -> Points:
    """Seven attacks, each against the four baselines and relabelling."""
    for attack in _OF_TABLE_1:
        yield from ({'words': {'attack': attack, 'defense': defense}} for defense in (*BASELINES, 'relabel'))


def table1_large() -> Points:
    """The three attacks of ImageNet and VGGFace2, likewise."""
    for attack in _OF_TABLE_3:
        yield from ({'words': {'attack': attack, 'defense': defense}} for defense in (*BASELINES, 'relabel'))


def table2() -> Points:
    """The attacks that change labels, whose true ones relabelling looks for."""
    yield from ({'words': {'attack': attack}} for attack in _OF_TABLE_1 if attack != 'label_consistent')


def table3() -> Points:
    """Features of the poisoned classifier, of SimCLR, of CLIP."""
    for attack in _OF_TABLE_3:
        yield from ({'words': {'attack': attack, 'features': features}} for features in ('teacher', 'simclr', 'clip'))


def table4() -> Points:
    """Shares of poison."""
    for attack in _OF_TABLE_3:
        yield from ({'words': {'attack': attack, 'rate': rate}} for rate in (0.01, 0.05, 0.1, 0.15, 0.2))
