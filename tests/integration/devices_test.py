"""The same pixels on 1, 4 and 8 devices, on two hosts, whatever the batch."""

import re

import numpy as np
import pytest
from support.command import TINY, dataset_bytes, run, start_hosts, weights

from purify.data.loader import Split

pytestmark = pytest.mark.long

PURIFY = ('--stages', 'prepare,purified', *TINY)


def pixels(folder):
    split = Split(folder / 'purified', 'train')
    return split.images(range(len(split))).astype(int)


@pytest.fixture(scope='module')
def reference(tmp_path_factory):
    """A whole run on one device."""
    folder = tmp_path_factory.mktemp('reference')
    run(folder, *TINY, '--config.run.batch_per_device=32')
    return folder


@pytest.mark.parametrize(('devices', 'batch'), [(1, 50), (4, 8), (8, 7)])
def test_purified_images_do_not_depend_on_devices_or_batch(reference, tmp_path, devices, batch):
    """At most one level apart: XLA's CPU convolutions round differently for different numbers of
    rows per device.
    """
    run(tmp_path, *PURIFY, f'--config.run.batch_per_device={batch}', devices=devices)
    apart = np.abs(pixels(reference) - pixels(tmp_path))
    assert apart.max() <= 1
    assert (apart > 0).mean() < 1e-3


def test_two_hosts_of_two_devices_run_everything(reference, tmp_path):
    flags = (*TINY, '--config.run.batch_per_device=16', '--config.run.save_every=50')
    hosts = start_hosts('--workdir', tmp_path, *flags)
    texts = [host.communicate(timeout=400)[0] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], texts
    apart = np.abs(pixels(reference) - pixels(tmp_path))
    assert apart.max() <= 1
    assert not re.search('report:', texts[1])  # process 0 alone talks
    assert dataset_bytes(tmp_path / 'poisoned') == dataset_bytes(reference / 'poisoned')
    for a, b in zip(weights(tmp_path / 'teacher'), weights(reference / 'teacher'), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
