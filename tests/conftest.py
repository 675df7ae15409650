"""Settings of the whole suite: eight fake CPU devices, no accelerator, strict hypothesis profile."""

import os

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'

from absl import flags
from hypothesis import HealthCheck, settings

flags.FLAGS.mark_as_parsed()  # grain reads absl flags in its workers
settings.register_profile('purify', deadline=None, max_examples=25, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile('purify')
