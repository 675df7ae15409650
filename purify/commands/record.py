"""What a run records of itself in its work folder: its config, and where and with what it ran."""

import os
import platform
import shlex
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import jax
import msgspec

from purify.core.errors import UserError
from purify.core.files import fingerprint, read_json
from purify.core.types import Facts

AGAIN = 'Start the run again with its own command, which writes it and keeps what is finished.'
PACKAGES = (
    'purify',
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax-checkpoint',
    'grain',
    'tensorflow-datasets',
    'numpy',
    'pillow',
)


class Environment(TypedDict):
    """What environment.json holds beside versions and devices: how to find the run's stages."""

    command: str
    store: str
    fingerprints: dict[str, Annotated[str, msgspec.Meta(pattern='^[0-9a-f]{12}$')]]
    settings: NotRequired[str]  # the config's fingerprint; older versions wrote none


def read_record(workdir: Path) -> tuple[Facts, Facts]:
    """Reads config.json and environment.json of a work folder, as a run wrote them.

    Raises `UserError` where one is missing, damaged, or of another run than the other.
    """
    known: Any = read_json(workdir / 'environment.json', Environment, cure=AGAIN)
    config = read_json(workdir / 'config.json', Facts, cure=AGAIN)
    try:
        same = known.get('settings') in (None, fingerprint(config))
    except ValueError:  # a number that is not finite, which no config holds
        same = False
    if not same:
        raise UserError(
            f'{workdir / "config.json"}: not the config that environment.json is about; one of them'
            ' was changed. Start the run again with its own command, which writes both and keeps'
            ' what is finished.'
        )
    return config, known


def environment() -> Facts:
    """Versions, devices, hosts, command and date of this run."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = 'not installed as a package'
    return {
        'command': shlex.join(['python', '-m', 'purify', *sys.argv[1:]]),
        'date': time.strftime('%Y-%m-%d %H:%M:%S %z'),
        'python': platform.python_version(),
        'versions': versions,
        'platform': platform.platform(),
        'device_kind': jax.devices()[0].device_kind,
        'device_count': jax.device_count(),
        'host_count': jax.process_count(),
        'cpu_count': os.cpu_count(),
    }
