"""Installs `purify` on Linux (x86-64, ARM) and on macOS with Apple silicon.

array_record, grain and jaxlib have no wheels elsewhere.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r"^__version__ = '([^']+)'$",
    (ROOT / 'purify' / '__init__.py').read_text(encoding='utf-8'),
    re.MULTILINE,
)
assert VERSION is not None, 'purify/__init__.py names no __version__'
DOCS = ['mkdocs>=1.6,<2', 'mkdocs-material>=9.6', 'mkdocstrings[python]>=0.30']

setup(
    name='purify',
    version=VERSION.group(1),
    description='Train on images that may be poisoned and come out clean: diffusion models in JAX.',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.11,<3.15',
    # The configs lie beside the package in a clone and inside it in a wheel.
    packages=[*find_packages(include=['purify', 'purify.*']), 'purify.configs'],
    package_dir={'purify.configs': 'configs'},
    package_data={
        'purify.core': ['gpus/*'],
        'purify.data': ['synsets.txt'],
        'purify.report': ['templates/*', 'templates/sections/*'],
        'purify.models': ['pretrained/**'],
        'purify.models.files': ['shapes.json'],
    },
    entry_points={'console_scripts': ['purify = purify.cli:main']},
    # Ranges, for libraries to live beside; third_party/constraints.txt holds the exact versions
    # that the tests ran with.
    install_requires=[
        'jax>=0.8.1,<0.13',
        'flax>=0.12.1,<0.13',
        'optax>=0.2.7,<0.3',
        'orbax-checkpoint>=0.11.28,<0.13',
        'grain>=0.2.15,<0.3',
        'array_record>=0.8.1',
        'tensorflow-datasets>=4.9.10,<5',
        'importlib_resources>=6',  # which it imports without asking for it
        'ml_collections>=1',
        'absl-py>=2',
        'numpy>=2',
        'scipy>=1.14',
        'scikit-learn>=1.5',
        'pillow>=11',
        'safetensors>=0.5',
        'msgspec>=0.19',
        'huggingface_hub>=0.34',
        'tokenizers>=0.20',
        'docstring_parser>=0.16',
        'jinja2>=3.1',
        'markupsafe>=2.1',
        'matplotlib>=3.9',
        'rich>=13',
    ],
    extras_require={
        'cuda': ['jax[cuda12]'],
        'cuda12': ['jax[cuda12]'],
        'cuda13': ['jax[cuda13]'],
        'tpu': ['jax[tpu]'],
        'tensorboard': ['tensorboardX>=2.6'],
        'wandb': ['wandb>=0.19'],
        'umap': ['umap-learn>=0.5.7'],  # the report's map of features; principal components else
        'parity': [
            'torch>=2.6',
            'diffusers>=0.36',
            'transformers>=4.56',
        ],  # to convert foreign weights and to renew golden files
        'docs': DOCS,
        'dev': [
            *DOCS,
            'opencv-python-headless>=4.10',
            'scikit-image>=0.24',
            'pytest>=8',
            'pytest-xdist>=3.6',
            'hypothesis>=6.100',
            'tensorboardX>=2.6',
            'wandb>=0.19',
            'ruff>=0.14',
            'pyright[nodejs]>=1.1.400',
        ],
    },
)
