"""The stage `replicate`: finds the training image that every generated one is most like."""

from pathlib import Path
from typing import Any

import numpy as np

from purify.attacker.manifest import Manifest
from purify.core import devices
from purify.core.errors import UserError
from purify.core.files import AGAIN, read_json, write_json
from purify.core.progress import Bar
from purify.core.types import Facts
from purify.engine.stage import Work
from purify.engine.tables import read_columns, read_table, write_columns
from purify.metrics.intervals import Rate, rate_of
from purify.metrics.replication import Neighbours
from purify.report.dissection import Replication
from purify.stages.train_encoder import describe_encoder

FILE, NUMBERS = 'replication.npz', 'numbers.json'
LIMIT = 0.3  # of SSCD's cosine, from which on Pan 2024 (section 6) see a copy
SHOWN = 200  # pairs of highest similarity that are kept one by one (figure 5)
AT_ONCE = 4096  # points looked up between two moves of the bar
# and their kinds
COLUMNS = {'ids': 'iu', 'match': 'iu', 'twin': 'iu'}
COLUMNS |= {'similarity': 'f', 'twin_similarity': 'f', 'poisoned': 'b'}


def find_copies(work: Work) -> None:
    """Finds the training image most like each generated one (Pan 2024, section 6 and figure 5).

    Writes numbers.json and replication.npz for the report, on one host. To every generated image A
    belongs the training image B that is most alike by the cosine of their features, and to B the
    other training image C most alike to it. Inputs: the tables `generated` and `given` of features,
    `encoder`, which made them, and the truth. Of the pairs of highest similarity, up to `SHOWN`,
    the first highest: 'ids' i64[k] of A, 'match' i64[k] of B, 'twin' i64[k] of C, 'similarity'
    f32[k] of A and B, 'twin_similarity' f32[k] of B and C, 'poisoned' bool[k], of B.

    Numbers: 'encoder' and 'copy_detection' (`describe_encoder`); 'pairs', all of them; 'mean' of
    the similarities; 'above': {'limit', 'share', 'count', 'interval'}; 'poisoned_matches', the
    share of pairs whose B is poisoned, with its 'interval' as 'poisoned_interval', beside
    'poisoned', the share of the training images that are, both None where no image is; 'copied':
    {'images' in the training set that are copies of another or have one, 'matches' with such a B,
    'share', 'mean' of their similarity}, None where the attack added no copies.
    """
    if not devices.is_lead():
        return
    generated, given = read_table(work.inputs['generated']), read_table(work.inputs['given'])
    manifest = Manifest.read(work.inputs['truth'])
    neighbours = Neighbours(given['features'])
    with Bar(work.name, len(generated['ids']) + min(SHOWN, len(generated['ids']))) as bar:
        match, similarity = _look_up(neighbours, generated['features'], None, bar)
        kept = np.lexsort((generated['ids'], -similarity))[:SHOWN]
        best = given['features'][match[kept]]
        twin, twin_similarity = _look_up(neighbours, best, match[kept], bar)
    rows = np.searchsorted(manifest.ids, given['ids'][match])
    found = {
        'ids': generated['ids'][kept],
        'match': given['ids'][match[kept]],
        'twin': given['ids'][twin],
        'similarity': similarity[kept],
        'twin_similarity': twin_similarity,
        'poisoned': manifest.poisoned[rows[kept]],
    }
    numbers = describe_encoder(work.inputs['encoder']) | describe_pairs(similarity, rows, manifest)
    write_json(work.folder / NUMBERS, numbers)
    write_columns(work.folder / FILE, found, compressed=True)


def read_replication(folder: Path) -> tuple[Facts, dict[str, np.ndarray]]:
    """Reads what `find_copies` wrote: numbers, and arrays by name."""
    numbers: Any = read_json(folder / NUMBERS, Replication)
    if missing := [name for name in ('poisoned_interval', 'copied') if name not in numbers]:
        # Results of earlier versions may lack these; what this version writes does not.
        raise UserError(f'{folder / NUMBERS}: it holds no {", ".join(missing)}. {AGAIN}')
    return numbers, read_columns(folder / FILE, COLUMNS)


def describe_pairs(similarity: np.ndarray, rows: np.ndarray, manifest: Manifest) -> Facts:
    """Sums up cosines f32[n] of generated images with their matches, the rows of the manifest."""
    above = rate_of(similarity > np.float32(LIMIT))
    similarity = similarity.astype(np.float64)
    hit = rate_of(manifest.poisoned[rows]) if manifest.poisoned.any() else None
    counted = {'share': above.value, 'count': above.hits, 'interval': _interval(above)}
    return {
        'pairs': len(similarity),
        'mean': _mean(similarity),
        'above': {'limit': LIMIT} | counted,
        'poisoned_matches': hit.value if hit else None,
        'poisoned_interval': _interval(hit) if hit else None,
        'poisoned': rate_of(manifest.poisoned).value if hit else None,
        'copied': _describe_copied(similarity, rows, manifest),
    }


def _describe_copied(similarity: np.ndarray, rows: np.ndarray, manifest: Manifest) -> Facts | None:
    """Of the pairs whose training image is there several times, for the attack has copied it."""
    copies = manifest.copy_of >= 0
    if not copies.any():
        return None
    several = copies | np.isin(manifest.ids, manifest.copy_of[copies])
    among = several[rows]
    share, mean = rate_of(among), _mean(similarity[among])
    counts = {'images': int(several.sum()), 'matches': share.hits}
    return counts | {'share': share.value, 'mean': mean}


def _look_up(
    neighbours: Neighbours, points: np.ndarray, own: np.ndarray | None, bar: Bar
) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for start in range(0, len(points), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        found.append(neighbours.nearest(points[part], None if own is None else own[part]))
        bar.advance(len(found[-1][0]))
    rows, cosines = zip(*found, strict=True)
    return np.concatenate(rows), np.concatenate(cosines)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _interval(share: Rate) -> list[float] | None:
    return list(share.interval()) if share.count else None
