"""What every attack refuses, and the checks that all of them share."""

import math

import numpy as np
import pytest

from purify.attacks.attack import flag, number_from, whole_number
from purify.attacks.fixed.none import NoAttack, RelabelOnly
from purify.attacks.fixed.patch import Patch
from purify.core.errors import UserError

IMAGE = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize('id', [-1, 1.5, 'a', None, True])
def test_an_id_is_a_whole_number(id):
    for call in (lambda: Patch().stamp(IMAGE, id), lambda: Patch().stamp_batch(IMAGE[None], [id])):
        with pytest.raises(UserError, match='id='):
            call()


@pytest.mark.parametrize('image', [None, [[1]], 3, IMAGE[:0], IMAGE[:, :0], IMAGE[..., :0]])
def test_what_is_no_image_is_refused(image):
    with pytest.raises(UserError, match='cannot stamp'):
        Patch().stamp(image, 0)


@pytest.mark.parametrize('call', ['stamp_many', 'stamp_batch'])
@pytest.mark.parametrize(
    ('images', 'ids', 'told'),
    [
        (IMAGE[None][:0], [], '0 images'),
        (IMAGE[None], [1, 2], '1 images and 2 ids'),
        (5, [1], 'sequences'),
        (IMAGE[None], 1, 'sequences'),
    ],
)
def test_images_and_ids_go_together(call, images, ids, told):
    with pytest.raises(UserError, match=told):
        getattr(Patch(), call)(images, ids)


def test_images_of_a_batch_share_their_shape():
    with pytest.raises(UserError, match='different shapes'):
        Patch().stamp_many([IMAGE, IMAGE[:7]], [0, 1])
    with pytest.raises(UserError, match='one array'):
        Patch().stamp_batch([IMAGE], [0])  # type: ignore[arg-type]


def test_numbers_have_an_upper_bound():
    assert whole_number('k', np.int8(4), 0, 4) == 4
    with pytest.raises(UserError, match='k=5 is above 4'):
        whole_number('k', 5, 0, 4)
    with pytest.raises(UserError, match='k'):
        whole_number('k', 10**5000, 0, 4)
    assert number_from('x', 3, 0, 3) == 3
    for value in (3.1, math.inf, math.nan, 10**400):
        with pytest.raises(UserError, match='x='):
            number_from('x', value, 0, 3)


@pytest.mark.parametrize('value', [0, 1, 'True', None])
def test_a_flag_is_a_bool(value):
    assert flag('wrap', np.bool_(True)) is True
    with pytest.raises(UserError, match='wrap='):
        flag('wrap', value)


def test_poison_by_label_changes_labels():
    with pytest.raises(UserError, match='changes nothing'):
        RelabelOnly(scheme='clean_label')
    assert NoAttack(scheme='clean_label').relabel(3) == 3
