"""Settings of the whole suite: eight fake CPU devices, no accelerator, one compilation cache,
derandomised hypothesis.
"""

import os
import signal
from pathlib import Path

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', str(Path(__file__).parents[1] / '.pytest_cache' / 'xla')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')

# Of a suite in the background the children would be deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import pytest
from absl import flags
from hypothesis import HealthCheck, settings

# Programs of tests run once or twice: compiling them well takes longer than running them.
jax.config.update('jax_disable_most_optimizations', True)
jax.config.update('jax_numpy_rank_promotion', 'raise')  # a vector meets images by mistake
flags.FLAGS.mark_as_parsed()  # grain reads absl flags in its workers
settings.register_profile(
    'purify',
    deadline=None,
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile('purify')


@pytest.fixture(scope='module')
def one_device():
    """One device where eight would only be compiled longer."""
    from support.meshes import mesh_of

    from purify.core import devices

    mesh = mesh_of(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, 'global_mesh', lambda: mesh)
        yield


@pytest.fixture(scope='module')
def few_devices(request):
    """One device in the short suite, all eight in the whole one."""
    if request.config.option.markexpr == 'not long':
        request.getfixturevalue('one_device')


LONGEST = (
    'configs/leaves_test.py',
    'integration/dataelixir_test.py',
    'integration/kill_test.py',
    'integration/quickstart_test.py',
    'integration/devices_test.py',
    'integration/main_job_test.py',
    'integration/castle_walls_test.py',
    'integration/relabel_test.py',
    'stages/finetune_latent_test.py',
    'configs/struppek_test.py',
)


def pytest_configure(config):
    """Commands in processes of their own are compiled as users have them, but in the short suite
    as all its programs are.
    """
    if config.option.markexpr == 'not long':
        os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'


def pytest_collection_modifyitems(items):
    """Files that take a minute or more come first, so that no worker is left with one of them at
    the end.
    """
    items.sort(key=lambda item: not str(item.path).endswith(LONGEST))
