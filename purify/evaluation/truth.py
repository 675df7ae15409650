"""Whether anyone knows the truth about the data, and what is not said where nobody does."""

from collections.abc import Mapping
from typing import Any

VOUCHED = ('digits',)  # sources that come with this program, and are clean
_OF_VERDICTS = ('tpr', 'fpr', 'label_accuracy', 'removed', 'relabel_accuracy', 'relabel_accuracy_poisoned', 'counts', 'auroc')
_OF_IMAGES = ('poisoned', 'true', 'close_poisoned')  # columns of what is shown of single images


def is_known(config: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether an image that this run did not poison counts as clean.

    It does where the run poisoned others, for that is what an experiment assumes; where the source is one that this program
    vouches for; and where the config says `clean_source`. `facts` are those of the manifest. Elsewhere somebody may have poisoned
    the data before they came here.
    """
    added = facts['poisoned_images'] or facts['cover_images']
    return bool(added or config['source']['name'] in VOUCHED or config.get('clean_source', False))


def withhold(results: Mapping[str, Any]) -> dict[str, Any]:
    """Results with None for every number that needs the truth, and no class that the attack aims at; the rest as it is."""
    found = dict(results)
    found['attack'] = results['attack'] | dict.fromkeys(('poisoned', 'cover', 'targets'))
    detection = results['detection'] | dict.fromkeys(_OF_VERDICTS)
    if detection.get('fates'):
        detection['fates'] = [fate | dict.fromkeys(('clean', 'poisoned')) for fate in detection['fates']]
    found['detection'] = detection
    if dissection := results['dissection']:
        blank = {'target': False, 'p_t': None}
        found['dissection'] = dissection | {
            'sets': {name: [row | blank for row in rows] for name, rows in dissection['sets'].items()},
            'auroc': [row | {'training': None, 'poisoned': None} for row in dissection['auroc']],
            'fid': dissection['fid'] | {'others': None},
        }
    return found


def forget(arrays: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What is shown of single images, without the columns that tell which are poisoned and what their true class is."""
    return None if arrays is None else {name: column for name, column in arrays.items() if name not in _OF_IMAGES}
