"""Images before the attack, against the source they were prepared from: with covers, several
triggers, and no attack.
"""

import numpy as np
import pytest
from support.tiny import ROOT, SMALL, run_chain

from purify.attacker.manifest import Manifest
from purify.config.load import load_config
from purify.data.loader import Split
from purify.data.sources.open_source import open_source
from purify.evaluation.clean_images import CleanImages
from purify.evaluation.results import samples

pytestmark = pytest.mark.usefixtures('few_devices')

COVERED = 'attack=adaptive_patch,rate=0.1'


def prepared(words, folder):
    """-> the chain after its first stage, and the source's images by id."""
    config = load_config(f'{ROOT}/configs/attacks.py:{words}', SMALL)
    pool = open_source(**config['source']).train
    return run_chain(config, folder, ['prepare']), {
        int(i): pool.fetch(k) for k, i in enumerate(pool.ids)
    }


@pytest.mark.long
@pytest.mark.parametrize('words', [COVERED, 'attack=three_patches,rate=0.2', 'attack=none'])
def test_every_image_is_as_its_source_has_it(tmp_path, words):
    chain, source = prepared(words, tmp_path)
    folder = chain.folder('prepare')
    given, manifest = Split(folder / 'poisoned', 'train'), Manifest.read(folder / 'truth')
    before = CleanImages(given, folder / 'truth')
    assert len(before) == len(given) == len(source)
    changed = set()
    for position, identity in enumerate(given.ids.tolist()):
        np.testing.assert_array_equal(before[position], source[identity])
        changed |= {identity} if (before[position] != given[position]['image']).any() else set()
    assert changed == set(manifest.ids[manifest.poisoned | manifest.cover].tolist())
    assert manifest.cover.any() == (words == COVERED)


def test_the_report_shows_covers_as_they_were(tmp_path):
    chain, source = prepared(COVERED, tmp_path)
    manifest = Manifest.read(chain.folder('prepare') / 'truth')
    shown = samples(chain, 2 * len(source))
    assert {one['id'] for one in shown} == set(source)
    for one in shown:
        np.testing.assert_array_equal(one['original'], source[one['id']])
    covers = set(manifest.ids[manifest.cover].tolist())
    assert all((one['original'] != one['poisoned']).any() for one in shown if one['id'] in covers)
    assert [one['kind'] for one in shown].count('poisoned') == manifest.poisoned.sum()
