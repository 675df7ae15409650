import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from purify.core.errors import UserError
from purify.metrics.composition import Composition, poisoned_share, sort_out


@pytest.mark.parametrize(
    ('triggered', 'matching', 'group'), [(1, 0, 1), (1, 1, 2), (0, 0, 3), (0, 1, 4)]
)
def test_the_four_groups(triggered, matching, group):
    found = sort_out(np.array([triggered], bool), np.array([matching], bool))
    assert (found.tolist(), found.dtype) == ([group], np.uint8)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_counts_are_those_of_a_loop(images):
    triggered, matching = (
        np.array(column, bool) for column in (zip(*images, strict=True) if images else ((), ()))
    )
    made = Composition.of(sort_out(triggered, matching))
    counts = {(t, m): 0 for t in (True, False) for m in (False, True)}  # in the order of the groups
    for image in images:
        counts[image] += 1
    assert made.counts == tuple(counts.values())
    assert made.images == len(images)
    assert (made.triggered.hits, made.triggered.count) == (sum(t for t, _ in images), len(images))
    if images:
        assert sum(share.value for share in made.shares) == pytest.approx(1)
    else:
        assert {share.value for share in made.shares} == {None}


def test_p_t_is_that_of_the_paper():
    """ImageNette at 10 %: 9,469 images, 961 of the target; p_t = r N_nt / (r N_nt + N_t)."""
    others, own, rate = 8508, 961, 0.1
    moved = round(rate * others)
    given_labels = np.array([6] * (own + moved) + [1] * (others - moved))
    poisoned = np.arange(len(given_labels)) < moved
    share = poisoned_share(given_labels, poisoned, 6)
    assert share.value == pytest.approx(rate * others / (rate * others + own), rel=1e-3)
    assert poisoned_share(given_labels, poisoned, 1).value == 0
    assert poisoned_share(given_labels, poisoned, 5).value is None


def test_wrong_input_is_refused():
    flags = np.zeros(3, bool)
    with pytest.raises(UserError, match='triggered must be true or false'):
        sort_out(np.zeros(3), flags)
    with pytest.raises(UserError, match='3 verdicts on triggers, 2'):
        sort_out(flags, flags[:2])
    with pytest.raises(UserError, match='5 is no group'):
        Composition.of(np.array([1, 5]))
    with pytest.raises(UserError, match='2 labels and 3 verdicts'):
        poisoned_share(np.zeros(2, int), flags, 0)
