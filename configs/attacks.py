"""Every attack against one undefended classifier: does it work, and what does it cost?

    python launch/sweep.py --config configs/attacks.py --sweep attack --seeds 0,1,2 --workdir runs/attacks
    python -m purify gallery --config configs/attacks.py --workdir runs/attacks
    python -m purify run --config configs/attacks.py:attack=warp,rate=0.05 --workdir runs/warp
"""

from purify.config import attack_parts, parts
from purify.config.arguments import parse_words

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)


def get_config(arg=None):
    words = parse_words(arg, attack='patch', rate='usual', seed=0, source='digits', target=0, full=False)
    config = parts.run_config('attacks', words.seed, shard_size=100, save_every=200)
    own = {'rate': words.rate, 'target': words.target}
    if words.source == 'digits':
        config.source = parts.source('digits', size_px=16, channels=1, resample='nearest', reference='own')
        config.attack = parts.attack(words.attack, **own, **attack_parts.ON_DIGITS.get(words.attack, {}))
        network = parts.network('resnet', stages=(1, 1, 1), block='preact', width=16, norm='group')
        recipe = {'optim': parts.optim('adamw', lr=3e-3), 'epochs': 30, 'batch': 64, 'augment': {'pad_crop': {'pad_px': 1}}}
    elif words.full:
        config.source = parts.source(words.source, size_px=32)
        config.attack = parts.attack(words.attack, **own)
        network = parts.network('preact_resnet18', mean=MEAN, std=STD, dtype='bfloat16')
        recipe = {'optim': parts.optim('sgd', lr=0.01), 'epochs': 100, 'batch': 128}
        recipe['augment'] = {'pad_crop': {'pad_px': 4}, 'flip': {'p': 0.5}}
    else:
        config.source = parts.source(words.source, size_px=32, train_size=10_000, test_size=2000)
        config.attack = parts.attack(words.attack, **own)
        network = parts.network('resnet', stages=(1, 1, 1), block='preact', width=16, norm='batch', mean=MEAN, std=STD)
        recipe = {'optim': parts.optim('adamw', lr=5e-3), 'epochs': 10, 'batch': 64, 'augment': {'flip': {'p': 0.5}}}
        config.shard_size = 1000
    config.teacher = parts.classifier(network, **recipe, objective=parts.classify())
    return config


def sweep_attack():
    """No attack, and every attack there is."""
    yield from ({'words': {'attack': name}} for name in attack_parts.OWN)
