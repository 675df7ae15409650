"""The words for what a defence found out about a dataset as a whole."""

from purify.core.types import Facts

WORDS = ('clean', 'attacked', 'mislabelled', 'unexplained')
HEDGE = ' With two classes wrong labels in one of them look the same.'
UNUSUAL = 0.03  # of all images: so many of a clean dataset hardly ever leave their label for good


def judgement(word: str, share: float, text: str) -> Facts:
    """Makes the fact `verdict`: one of `WORDS`, the share of images that leave, and a text.

    'clean': nothing was found. 'attacked': labels are named that a trigger explains. 'mislabelled':
    labels are wrong without a trigger. 'unexplained': more images than usual leave their labels,
    and neither explains it.
    """
    assert word in WORDS, word
    return {'word': word, 'share': round(float(share), 6), 'text': text}
