"""Whether anyone knows the truth about the data, and what is not said where nobody does."""

from collections.abc import Mapping
from typing import TypeVar

from msgspec.structs import replace

from purify.core.types import Settings
from purify.report.results import Results

T = TypeVar('T')
VOUCHED = ('digits',)  # sources that come with this program, and are clean
_OF_VERDICTS = ('tpr', 'fpr', 'label_accuracy', 'removed', 'counts', 'auroc')
_OF_VERDICTS += ('relabel_accuracy', 'relabel_accuracy_poisoned')
_OF_IMAGES = ('poisoned', 'true', 'close_poisoned')  # columns of what is shown of single images


def is_known(config: Settings, facts: Settings) -> bool:
    """Tells whether an image that this run did not poison counts as clean.

    It does where the run poisoned others, for that is what an experiment assumes; where the source
    is one that this program vouches for; and where the config says `clean_source`. `facts` are
    those of the manifest. Elsewhere somebody may have poisoned the data before they came here.
    """
    added = facts['poisoned_images'] or facts['cover_images']
    return bool(added or config['source']['name'] in VOUCHED or config.get('clean_source', False))


def withhold(results: Results) -> Results:
    """Replaces every number and class in the results that only the truth can tell by None."""
    attack = replace(results.attack, poisoned=None, cover=None, targets=None)
    detection = replace(results.detection, **dict.fromkeys(_OF_VERDICTS))
    dissection = results.dissection
    if detection.fates:
        fates = [replace(fate, clean=None, poisoned=None) for fate in detection.fates]
        detection = replace(detection, fates=fates)
    if dissection:
        auroc = [replace(row, training=None, poisoned=None) for row in dissection.auroc]
        sets = {
            name: [replace(row, target=False, p_t=None) for row in rows]
            for name, rows in dissection.sets.items()
        }
        fid = replace(dissection.fid, others=None)
        dissection = replace(dissection, sets=sets, auroc=auroc, fid=fid)
    return replace(results, attack=attack, detection=detection, dissection=dissection)


def forget(arrays: Mapping[str, T] | None) -> dict[str, T] | None:
    """Drops the columns that tell which single images are poisoned and their true class."""
    if arrays is None:
        return None
    return {name: column for name, column in arrays.items() if name not in _OF_IMAGES}
