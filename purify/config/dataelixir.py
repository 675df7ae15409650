"""The experiments of Zhou 2024: the digits and its three datasets, its baselines, and its tables as the points of sweeps."""

from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from purify.config import attack_parts, cleaners, parts
from purify.config.arguments import parse_words

BASELINES = ('activation_clustering', 'spectral', 'abl', 'dbd')
METHODS = ('dataelixir', *BASELINES)
_FACES = {'mean': (0.507, 0.411, 0.367), 'std': (1 / 255, 1 / 255, 1 / 255)}  # VGGFace: 129.2, 104.8, 93.6 off 0 to 255
_FLIP = {'flip': {'p': 0.5}}
_LARGE = {'warp': {'control_px': 0, 'strength': 1.0, 'covers': 0.0}, 'dct': {'magnitude': 50.0}}  # at 224 px
KEPT = {2: 1, 5: 3, 10: 5, 20: 8, 40: 10}  # m: how many of the chain's last m states the fast chain visits, and keeps
_TARGETS = {'significant': {}, 'mad': {'targets': {'name': 'mad', 'threshold': 2.0, 'score': 'kl', 'two_sided': False}}}
_SAMPLERS = {'ddim': {'name': 'ddim', 'eta': 1.0}, 'dpmpp_2m': {'name': 'dpmpp_2m'}}
_UNSAID = {'prior': 'usual', 'targets': 'usual', 'sampler': 'usual', 'start': 0, 'kept': 0, 'exact': False, 'released': False}
_CLASSES = {'digits': 10, 'cifar10': 10, 'tiny': 200, 'lfw': 62}
Points = Iterator[dict[str, Any]]


def words_of(arg: str | None) -> Any:
    """The words of `configs/dataelixir.py`. Raises ValueError for those that do not go together."""
    own = {'setting': 'digits', 'source': 'usual', 'weights': 'usual'} | _UNSAID
    words = parse_words(arg, attack='usual', rate='usual', seed=0, defense='dataelixir', **own)
    choices: dict[str, Any] = {'setting': SETTINGS, 'defense': (*METHODS, 'none'), 'targets': _TARGETS, 'sampler': _SAMPLERS}
    for name, offered in (choices | {'kept': KEPT}).items():
        if words[name] not in offered and words[name] != _UNSAID.get(name):
            raise ValueError(f'{name}={words[name]!r}: choose from {", ".join(map(str, sorted(offered)))}.')
    given = [name for name, usual in _UNSAID.items() if words[name] != usual]
    if given and words.defense != 'dataelixir':
        raise ValueError(f'{given[0]} is a word of defense=dataelixir; defense={words.defense} has no use for it.')
    if words.exact and words.sampler != 'usual':
        raise ValueError(f'exact takes every step of the prior as DDPM does; leave out sampler={words.sampler}, or exact.')
    if counted := [name for name in ('start', 'kept') if words[name] and words.setting == 'tiny' and words.prior == 'usual']:
        raise ValueError(
            f'{counted[0]} counts steps of a prior that has 1,000 on a line; the one of setting=tiny has 4,000 on a cosine. '
            'Choose another prior=, or set --config.defense.start, .window and .kept in its own steps.'
        )
    if words.setting == 'digits' and words.source != 'usual':
        raise ValueError(f'setting=digits brings its images; for source={words.source} choose cifar10, tiny or lfw.')
    return words


def _asked(words: Any) -> dict[str, Any]:
    """What the words targets, sampler, start and kept change of DataElixir's part."""
    changes: dict[str, Any] = {'start': words.start} if words.start else {}
    if words.kept:
        changes |= {'window': words.kept} | ({} if words.exact else {'kept': KEPT[words.kept]})
    if words.sampler != 'usual':
        changes['sampler'] = _SAMPLERS[words.sampler]
    if words.targets == 'significant':
        changes['targets'] = parts.dataelixir().to_dict()['targets']
    return changes | _TARGETS.get(words.targets, {})


def _digits(words: Any) -> ConfigDict:
    """The quickstart's 16 px digits and its victim; the embedded prior, which was trained on others of them."""
    config = parts.run_config('dataelixir', words.seed, shard_size=100, save_every=100)
    config.source = parts.source('digits', size_px=16, channels=1, resample='nearest', reference='own')
    config.teacher = parts.small_classifier({'pad_crop': {'pad_px': 1}}, parts.classify(), epochs=30)
    own = parts.trained_prior(channels=(24, 48, 64), steps=2500, batch=64, lr=2e-3, size_px=16, stored_dtype='float16')
    attack = {'usual': 'patch', 'changes': attack_parts.ON_DIGITS}
    return _complete(config, words, attack=attack, prior='digits', own_prior=own, recipes=cleaners.SMALL, semi_steps=1500)


def _cifar10(words: Any) -> ConfigDict:
    """PreAct-ResNet-18 from scratch, google/ddpm-cifar10-32."""
    config = _config(words, 'tfds:cifar10', size_px=32, batch_per_device=1024)
    augment = {'pad_crop': {'pad_px': 4}} | _FLIP
    config.teacher = _victim('preact_resnet18', lr=0.01, epochs=100, batch=128, augment=augment, **parts.CIFAR_SCALE)
    own = parts.wide_prior(channels=(128, 256, 256, 256), attention_levels=1, steps=100_000, batch=128, lr=2e-4, size_px=32)
    attack = {'usual': 'dataelixir_patch', 'changes': attack_parts.ON_FULL}
    rest: Any = {'recipes': {'dbd': {'encoder_epochs': 1000}}, 'semi_steps': 194_560}
    return _complete(config, words, attack=attack, prior='google/ddpm-cifar10-32', own_prior=own, held_out=10_000, **rest)


def _tiny(words: Any) -> ConfigDict:
    """EfficientNet-B4 from ImageNet's weights; the Improved DDPM of 64 px, whose 4,000 steps lie on a cosine.

    What its T was is not published. Step 1,200 is as noisy as step 150 of a linear 1,000, and 80 as noisy as 10.
    """
    config = _config(words, 'imagefolder:tiny-imagenet-200', size_px=64, batch_per_device=256)
    augment = {'pad_crop': {'pad_px': 8}} | _FLIP
    config.teacher = _victim('efficientnet_b4', lr=0.01, epochs=100, batch=128, augment=augment, **parts.IMAGENET_SCALE)
    own = parts.wide_prior(channels=(128, 256, 256, 512), attention_levels=2, steps=400_000, batch=128, lr=1e-4, size_px=64)
    chain = {'start': 1200, 'window': 80}
    if words.exact:
        chain = {'start': 1200, 'sampler': {'name': 'ddpm', 'variance': 'learned_range', 'clip_sample': True}}
    attack = {'usual': 'dataelixir_patch', 'changes': attack_parts.ON_FULL, 'size_px': 8}
    places = {'prior': './priors/imagenet64', 'weights': './weights/efficientnet_b4.safetensors'}
    rest: Any = {'recipes': {'dbd': {'encoder_epochs': 1000, 'batch': 256}}, 'semi_steps': 194_560} | places
    return _complete(config, words, attack=attack, own_prior=own, held_out=20_000, chain=chain, **rest)


def _lfw(words: Any) -> ConfigDict:
    """62 people at 224 px: a VGG-16 from VGGFace's weights; google/ddpm-celebahq-256."""
    people = {} if words.source != 'usual' else {'min_per_class': 16}  # to train on, of 20: a fifth of each is the test set
    config = _config(words, 'tfds:lfw', size_px=224, batch_per_device=16, shard_size=100, **people)
    config.teacher = _victim('vgg16', lr=1e-3, epochs=50, batch=32, augment=_FLIP, **_FACES)
    own = parts.wide_prior(channels=(128, 256, 256, 512), attention_levels=2, steps=50_000, batch=64, lr=1e-4, size_px=64)
    attack = {'usual': 'dataelixir_patch', 'changes': attack_parts.ON_FULL | _LARGE, 'size_px': 28}
    places = {'prior': 'google/ddpm-celebahq-256', 'weights': './weights/vggface.safetensors'}
    rest: Any = {'recipes': {'dbd': {'encoder_epochs': 1000, 'batch': 64, 'lr': 0.05}}, 'semi_steps': 20_000} | places
    return _complete(config, words, attack=attack, own_prior=own, held_out=500, **rest)


SETTINGS = {'digits': _digits, 'cifar10': _cifar10, 'tiny': _tiny, 'lfw': _lfw}


def _config(words: Any, source: str, *, size_px: int, batch_per_device: int, shard_size: int = 1000, **data: Any) -> ConfigDict:
    run = {'inference_batch': 1024 if size_px < 64 else 256, 'batch_per_device': batch_per_device}
    config = parts.run_config('dataelixir', words.seed, shard_size=shard_size, **run)
    config.source = parts.source(source if words.source == 'usual' else words.source, size_px=size_px, **data)
    return config


def _victim(network: str, *, lr: float, epochs: float, batch: int, augment: dict[str, Any], **scale: Any) -> ConfigDict:
    """SGD of momentum .9 and weight decay 5e-4 on a cosine, as the released code trains its victim on CIFAR-10."""
    built, how = parts.network(network, dtype='bfloat16', **scale), parts.optim('sgd', lr=lr)
    return parts.classifier(built, how, epochs=epochs, batch=batch, augment=augment, objective=parts.classify())


def _complete(
    config: ConfigDict,
    words: Any,
    *,
    attack: dict[str, Any],
    prior: str,
    own_prior: ConfigDict,
    recipes: dict[str, dict[str, Any]],
    semi_steps: int,
    held_out: int = 0,
    weights: str = '',
    chain: dict[str, Any] | None = None,
) -> ConfigDict:
    """Weights, attack, defence and prior of a config that has its source and teacher.

    `chain` are changes of DataElixir's part that the published `prior` asks for; one trained in the run is a linear chain of
    1,000 steps. `held_out` training images are kept apart for it where the source brings none.
    """
    teacher: Any = config.teacher
    teacher.init_from = weights if words.weights == 'usual' else words.weights
    name = attack['usual'] if words.attack == 'usual' else words.attack
    sized = name in (attack['usual'], *attack_parts.SEVERAL) and 'size_px' in attack
    changes = attack['changes'].get(name, {}) | ({'size_px': attack['size_px']} if sized else {})
    parts.set_attack(config, name, **changes | parts.given(rate=words.rate))
    if words.defense == 'none':
        return config
    recipes = recipes | {name: recipes.get(name, {}) | told for name, told in _told(words, config).items()}
    fast = {} if words.exact or words.setting == 'digits' else {'dtype': 'bfloat16'}
    chain = fast | ((chain or {}) if words.prior == 'usual' else {}) | _asked(words)
    own = {'dataelixir': {'exact': words.exact, 'released': words.released} | chain}
    cleaners.defend(config, words.defense, recipes | own, semi_steps=semi_steps)
    if words.defense != 'dataelixir':
        return config
    if words.prior not in ('train', 'poisoned'):
        config.prior = parts.loaded_prior(prior if words.prior == 'usual' else words.prior)
        return config
    config.prior = own_prior
    if words.prior == 'poisoned':
        config.prior.data = 'poisoned'
    elif held_out:
        source: Any = config.source
        source.reference, source.reference_size = 'held_out', held_out
    return config


def _told(words: Any, config: ConfigDict) -> dict[str, dict[str, Any]]:
    """What the paper's Table 1 tells two baselines, which cannot find more than they remove: how much poison there is.

    ABL isolates as many images as are poisoned. Spectral removes 1.5 times the poisoned share of the target class from every class
    (Tran 2018), at most a half. Of the setting's classes, all as large, that share is rate / (rate + 1 / classes), and of
    clean-label poison, which lies in the class already, rate x classes. It is the rate of the words, not one that a flag sets.
    """
    attack: Any = config.attack
    rate, classes = attack.rate, _CLASSES[words.setting]
    if not rate:
        return {}
    poisoned = rate * classes if attack.scheme == 'clean_label' else rate / (rate + 1 / classes)
    return {'abl': {'share': rate}, 'spectral': {'remove': min(0.5, 1.5 * poisoned)}}


# the tables: every point is one run, whose teacher is the column 'no defense' ----------------------------------------------

OTHER_ATTACKS = ('blended', 'sample_specific', 'fitted_low_frequency', 'label_consistent', 'dct', 'warp', 'input_aware', 'lira')


def words_each(name: str, values: tuple[Any, ...]) -> Points:
    """One point for each value of a word."""
    yield from ({'words': {name: value}} for value in values)


def setting_each(name: str, values: tuple[Any, ...]) -> Points:
    """One point for each value of a setting of the defence."""
    yield from ({f'config.defense.{name}': value} for value in values)


def table1() -> Points:
    """The nine attacks, each against the four baselines and DataElixir."""
    for attack in ('usual', *OTHER_ATTACKS):
        yield from ({'words': {'attack': attack, 'defense': defense}} for defense in (*BASELINES, 'dataelixir'))


def kept() -> Points:
    """m, how many of the chain's last states are looked at: all of them under `exact`, else about every other one."""
    return words_each('kept', tuple(KEPT))


def evaluations() -> Points:
    """What fewer evaluations of the network cost: fast with 5 to 150 a round, and exact."""
    for steps, count in ((5, 2), (8, 3), (15, 5), (30, 8), (75, 10), (150, 10)):
        yield {'config.defense.steps': steps, 'config.defense.kept': count}
    yield {'words': {'exact': True}}
