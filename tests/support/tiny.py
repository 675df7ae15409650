"""Configs of the real shape at a hundredth of the work, as plain dicts, and a chain run on them in
this process.
"""

from pathlib import Path

import numpy as np

from purify.commands.plan import make_stages
from purify.config.load import load_config
from purify.engine.chain import Chain

ROOT = Path(__file__).parents[2]
SMALL = (
    '--config.source.train_size=96',
    '--config.source.test_size=48',
    '--config.teacher.epochs=1',
    '--config.teacher.batch=16',
    '--config.teacher.network.width=4',
    '--config.teacher.network.stages=(1,)',
    '--config.shard_size=40',
    '--config.run.inference_batch=24',
    '--config.run.batch_per_device=24',
)
STUDENT = (
    '--config.student.epochs=1',
    '--config.student.network.width=4',
    '--config.student.network.stages=(1,)',
    '--config.student.batch=16',
)
VARY = ('--config.defense.vary.steps=2',)
NETWORKS = {
    'resnet': {'width': 4, 'stages': [1]},
    'resnet18': {'width': 4},
    'preact_resnet18': {'width': 4},
    'efficientnet_b4': {'width': 0.1, 'depth': 0.1},
    'vgg16': {'width': 2, 'hidden': 8},
    'fast': {'width': 4},
    'densenet121': {'name': 'densenet', 'stages': [1, 1], 'growth': 4},
}


def quickstart(words='', *flags):
    """The quickstart, tiny."""
    extra = (
        ()
        if 'defense=none' in words
        else STUDENT + (() if 'defense=augmentations' in words else VARY)
    )
    given = {flag.partition('=')[0] for flag in flags}  # of a list, a second flag would be appended
    own = [flag for flag in (*SMALL, *extra) if flag.partition('=')[0] not in given]
    spec = f'{ROOT}/configs/quickstart.py' + (f':{words}' if words else '')
    return load_config(spec, [*own, *flags])


def write_pictures(folder, train, test, size_px=32, classes=10):
    """Random coloured pictures, as the source arrays:FOLDER; -> the folder."""
    rng = np.random.default_rng(0)
    for split, count in (('train', train), ('test', test)):
        images = rng.integers(0, 256, (count, size_px, size_px, 3), np.uint8)
        np.savez(folder / f'{split}.npz', images=images, labels=np.arange(count) % classes)
    return folder


def run_chain(config, folder, names=None):
    """Runs the stages; -> the chain."""
    chain = Chain(make_stages(config), folder)
    chain.run(names or list(chain.stages), config['run'])
    return chain


def shrink_fit(config):
    """The attacker's stages of a config, if it has any, in a few steps of the smallest networks."""
    small = {'width': 4, 'stages': [1]}
    if 'surrogate' in config:
        config['surrogate'] |= {'epochs': 1, 'network': config['surrogate']['network'] | small}
        if config['surrogate']['objective']['name'] == 'adversarial':
            config['surrogate']['objective'] |= {'iterations': 1}
    if 'trigger' in config:
        part = config['trigger']
        part |= {'steps': 2, 'batch': 16}
        for name in {'network', 'classifier'} & set(part):
            part[name] |= {'width': 4} | ({'stages': [1]} if name == 'classifier' else {})
        if 'mask_epochs' in part['objective']:
            part['objective']['mask_epochs'] = 0.4


def shrink_network(network):
    """The smallest network of the same family, in float32."""
    return network | NETWORKS[network['name']] | {'dtype': 'float32'}


def shrink_study(config, train_size=60, shard_size=32):
    """A config of dataelixir.py or relabel.py at a thousandth of the work."""
    config['source'] |= {'train_size': train_size, 'test_size': 30}
    if config['source']['channels'] == 3:
        config['source']['size_px'] = 32
        config['attack'] |= {'size_px': 4} if config['attack'].get('size_px') else {}
        config['attack'] |= {'control_px': 4} if 'control_px' in config['attack'] else {}
    config['shard_size'] = shard_size
    config['run'] |= {'inference_batch': 32, 'batch_per_device': 4, 'report_images': 2}
    for name in {'teacher', 'student', 'surrogate'} & set(config):
        network = shrink_network(config[name]['network'])
        config[name] |= {'epochs': 0, 'steps': 2, 'batch': 16, 'network': network}
    shrink_fit(config)
    if 'defense' in config:
        shrink_defense(config, config['defense'])
    if 'network' in config.get('prior', {}):
        config['prior'] |= {'steps': 2, 'batch': 8}
        unet = {'sample_size': 8, 'block_out_channels': [8, 16]}
        config['prior']['network'] |= unet | {'norm_num_groups': 4, 'attention_levels': 0}
    return config


def shrink_defense(config, defense):
    """The part of a study's config that is the defence's own."""
    if defense['name'] == 'dataelixir':
        defense |= {'rounds': min(defense['rounds'], 2), 'dtype': 'float32'}
        if defense['forward'] == 'matched':
            defense |= {'steps': defense['kept'] + 2}
    if defense['name'] == 'relabel':
        if 'encoder' in defense:
            network = shrink_network(defense['encoder']['network'])
            defense['encoder'] |= {'epochs': 1, 'batch': 80, 'projection': 4, 'network': network}
        defense['flows'] |= {'reduce': min(defense['flows']['reduce'], 3)}
        defense['fit'] |= {'epochs': 2, 'members': min(defense['fit']['members'], 2)}
    if defense['name'] == 'abl':
        for part in ('isolation', 'finetune', 'unlearn'):
            defense[part]['epochs'] = 1
        defense['share'] = 0.5  # a batch is more than one image in a hundred
    if defense['name'] == 'dbd':
        defense['encoder'] |= {'epochs': 1, 'batch': 16, 'projection': 8}
        defense['head']['epochs'] = 1
    if defense['name'] == 'nad':
        defense |= {'epochs': 1, 'finetune': defense['finetune'] | {'epochs': 1}}
        config['trusted']['share'] = 0.2  # a class has few images
    if defense['name'] == 'asd':
        defense |= {'rounds': [1, 1, 1], 'add': 2}
        config['student']['steps'] = 3
        config['trusted']['per_class'] = 2


def shrink_struppek(config):
    """A config of configs/imagenette.py or imagenet100.py at a thousandth of the work."""
    small = {'name': 'resnet', 'stages': [1], 'block': 'preact', 'width': 4, 'norm': 'group'}
    config['source'] |= {'size_px': 32, 'classes': ''}
    config['shard_size'] = 32
    config['run'] |= {'inference_batch': 32, 'batch_per_device': 4, 'vae_slice': 2}
    if 'size_px' in config['attack']:
        config['attack']['size_px'] = min(config['attack']['size_px'], 25)
    for name in {'teacher', 'student'} & set(config):
        config[name] |= {'network': small, 'epochs': 1, 'batch': 16}
    if config.get('defense', {}).get('name') == 'variations':
        config['defense']['vary'] |= {'steps': 2, 'size_px': 16}
        config['defense']['dtype'] = 'float32'
    return config
