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
    '--config.shard_size=40',
    '--config.run.inference_batch=24',
    '--config.run.batch_per_device=24',
)
STUDENT = (
    '--config.student.epochs=1',
    '--config.student.network.width=4',
    '--config.student.batch=16',
)
VARY = ('--config.defense.vary.steps=2',)


def quickstart(words='', *flags):
    """The quickstart, tiny."""
    extra = (
        ()
        if 'defense=none' in words
        else STUDENT + (() if 'defense=augmentations' in words else VARY)
    )
    return load_config(
        f'{ROOT}/configs/quickstart.py' + (f':{words}' if words else ''), [*SMALL, *extra, *flags]
    )


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
