"""The stage `trusted`: draws a few training images that the defender is told are clean."""

import numpy as np

from purify.attacker.manifest import Manifest
from purify.core import devices
from purify.core.errors import UserError
from purify.core.randomness import stream_rng
from purify.core.types import Settings
from purify.data.loader import Split
from purify.data.table import Table
from purify.engine.stage import Work
from purify.engine.tables import write_table


def check_trusted(settings: Settings) -> None:
    """Raises `UserError` unless exactly one of `per_class` and `share` says how many there are."""
    per_class, share = settings['per_class'], settings['share']
    if per_class < 0 or not 0 <= share < 1 or bool(per_class) == bool(share):
        raise UserError(
            f'trusted.per_class={per_class} and trusted.share={share}: give one of them, a number'
            ' of images of each class or a share of all images below 1, and 0 for the other.'
        )


def trust(work: Work) -> None:
    """Writes the table of all training images, where `keep` marks the trusted ones; facts: counts.

    They are drawn for the defender by one who knows the truth: among images that the attack did not
    touch, so many of each class. It is the only thing of the truth that a defence is told.
    """
    if devices.is_lead():
        split = Split(work.inputs['poisoned'], 'train')
        manifest, settings = Manifest.read(work.inputs['truth']), work.settings
        keep = np.isin(split.ids, draw_trusted(manifest, split.class_names, **settings))
        columns = {'ids': split.ids, 'keep': keep, 'labels': split.labels}
        columns |= {'candidate': np.full(len(split), -1, np.int32)}
        counts = np.bincount(split.labels[keep], minlength=len(split.class_names)).tolist()
        facts = {'images': int(keep.sum()), 'of_each_class': counts}
        write_table(work.folder, Table(columns, facts))
    devices.barrier(f'{work.name} drawn')


def draw_trusted(
    manifest: Manifest, class_names: list[str], *, per_class: int, share: float, seed: int
) -> np.ndarray:
    """Draws ids i64[m] of images that have their true label and no trigger.

    How many, and what is raised: see `share_out`. A larger number contains a smaller one; which
    images of a class come first, by stream 'trusted' of `seed`, does not depend on other classes.
    """
    labels = manifest.true_labels
    clean = ~manifest.poisoned & ~manifest.cover & (manifest.given_labels == labels)
    counts = share_out(labels[clean], class_names, len(labels), per_class=per_class, share=share)
    chosen = []
    for label, count in enumerate(counts):
        ids = np.sort(manifest.ids[clean & (labels == label)])
        chosen.append(stream_rng(seed, 'trusted', label).permutation(ids)[:count])
    return np.concatenate(chosen)


def share_out(
    clean: np.ndarray, class_names: list[str], images: int, *, per_class: int, share: float
) -> list[int]:
    """How many images of each class are trusted.

    Args:
      clean: true labels i32[m] of the images that the attack left alone.
      class_names: of all classes.
      images: of the whole training set.
      per_class: so many of each class, or
      share: so many of all images, over the classes as the clean ones are; one of each at least.

    Raises:
      UserError: for a class that has too few, or if not exactly one of the two numbers is given.
    """
    check_trusted({'per_class': per_class, 'share': share})
    left, total = np.bincount(clean, minlength=len(class_names)).tolist(), max(1, len(clean))
    counts = [per_class or max(1, round(share * images * own / total)) for own in left]
    for name, own, count in zip(class_names, left, counts, strict=True):
        if count > own:
            raise UserError(
                f'trusted: class {name!r} has {own} images that the attack left alone, and {count}'
                ' are to be trusted. Lower trusted.per_class or trusted.share.'
            )
    return counts
