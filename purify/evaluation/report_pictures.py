"""Pictures for the report: generated images by group, and beside the training images they copy."""

import numpy as np

from purify.data.loader import Split
from purify.engine.chain import Chain
from purify.engine.stage import Input
from purify.evaluation.copies import read_replication
from purify.evaluation.dissect import read_dissection

MOST_GROUP = 12  # of each group
MOST_PAIRS = 8
GROUPS = (1, 2, 3, 4)


def show_groups(chain: Chain) -> dict[str, np.ndarray] | None:
    """Shows generated images of target classes, the first of each group by id, for the report.

    See `purify.report.sections.generations.make_groups`. Of the probe where there is one, else of
    the generated set; None for runs that dissected none, or have none of a target.
    """
    if not chain.finished('dissect'):
        return None
    numbers, sets = read_dissection(chain.folder('dissect'))
    for name in ('probe', 'generated'):
        targets = [row['label'] for row in numbers['sets'].get(name, []) if row['target']]
        if targets:
            columns = sets[name]
            split = Split(chain.path(chain.stages['dissect'].inputs[name]), 'train')
            rows = choose_groups(columns, targets)
            image = _pictures(split, columns['ids'][rows])
            return {key: column[rows] for key, column in columns.items()} | {'image': image}
    return None


def choose_groups(columns: dict[str, np.ndarray], labels: list[int]) -> np.ndarray:
    """Chooses rows i64[k] of a set: of each group, the first by id made of these labels."""
    aimed = np.isin(columns['label'], labels)
    order = np.argsort(columns['ids'], kind='stable')
    found = [order[(aimed & (columns['group'] == group))[order]][:MOST_GROUP] for group in GROUPS]
    return np.concatenate(found)


def show_copies(chain: Chain) -> dict[str, np.ndarray] | None:
    """Shows the most alike pairs of images for the report; None for runs that looked for no copies.

    See `purify.report.sections.replication.make_triplets`.
    """
    if not chain.finished('replicate'):
        return None
    _, found = read_replication(chain.folder('replicate'))
    roles = ('generated', 'given')
    made, given = (Split(chain.path(_measured(chain, role)), 'train') for role in roles)
    pairs = choose_pairs(found)
    shown = {'shown': pairs}
    sides = (('made', made, 'ids'), ('match', given, 'match'), ('twin', given, 'twin'))
    for name, split, ids in sides:
        own = found[ids][pairs]
        shown[f'{name}_image'] = _pictures(split, own)
        shown[f'{name}_label'] = split.labels[split.position_of(own)]
    return found | shown


def choose_pairs(found: dict[str, np.ndarray]) -> np.ndarray:
    """Chooses pairs i64[m], most alike first, with every training image at most once."""
    order = np.lexsort((found['ids'], -found['similarity']))
    _, first = np.unique(found['match'][order], return_index=True)
    return order[np.sort(first)[:MOST_PAIRS]]


def _measured(chain: Chain, role: str) -> Input:
    """The dataset whose features the search for copies reads in that role."""
    return chain.stages[chain.stages['replicate'].inputs[role].stage].inputs['poisoned']


def _pictures(split: Split, ids: np.ndarray) -> np.ndarray:
    """u8[k h w c]."""
    images = [split[row]['image'] for row in split.position_of(ids).tolist()]
    return np.stack(images) if images else np.zeros((0, *split.shape), np.uint8)
