"""What every attack refuses."""

import numpy as np
import pytest

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


def test_poison_by_label_changes_labels():
    with pytest.raises(UserError, match='changes nothing'):
        RelabelOnly(scheme='clean_label')
    assert NoAttack(scheme='clean_label').relabel(3) == 3
