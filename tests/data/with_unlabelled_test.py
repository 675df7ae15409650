import numpy as np
import pytest

from purify.core.errors import UserError
from purify.data.with_unlabelled import Paired

OTHERS = [{'id': 10 + k, 'image': np.full((2, 2, 1), k, np.uint8), 'label': 9} for k in range(4)]
RECORD = {'id': 1, 'image': np.zeros((2, 2, 1), np.uint8), 'label': 3}


def test_a_record_gets_another_image_without_its_label():
    seen = set()
    for number in range(64):
        pair = Paired(OTHERS).random_map(dict(RECORD), np.random.default_rng(number))
        assert (pair['id'], pair['label']) == (1, 3)
        assert (pair['unlabelled'] == pair['unlabelled_id'] - 10).all()
        assert set(pair) == {'id', 'image', 'label', 'unlabelled', 'unlabelled_id'}
        again = Paired(OTHERS).random_map(dict(RECORD), np.random.default_rng(number))
        assert again['unlabelled_id'] == pair['unlabelled_id']
        seen.add(pair['unlabelled_id'])
    assert seen == {10, 11, 12, 13}


def test_nothing_left_without_a_label_is_an_error():
    with pytest.raises(UserError, match='credible'):
        Paired([])
