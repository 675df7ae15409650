"""The stage `atlas`: a map of features and scores of single images, with the truth about them."""

import importlib.util
from pathlib import Path
from typing import TypedDict

import numpy as np
from threadpoolctl import threadpool_limits

from purify.attacker.manifest import Manifest
from purify.core import devices
from purify.core.files import read_json, write_json
from purify.core.progress import say
from purify.core.randomness import stream_rng, stream_seed
from purify.core.types import Facts
from purify.data.table import Table
from purify.engine.stage import Work
from purify.engine.tables import read_columns, read_table, write_columns

FILE, FACTS = 'atlas.npz', 'atlas.json'
MOST = 4000  # images on a map
DIMENSIONS = 50  # that UMAP starts from
# Looked at closely: accused ones or targets of the attack, and others beside them.
MOST_CLASSES, INNOCENT = 6, 2
CLOSE = ('foreign', 'score')  # columns of findings that are looked at closely, where there are such
# Columns and their kinds.
ON_MAP = {'ids': 'iu', 'points': 'f', 'label': 'iu', 'true': 'iu', 'poisoned': 'b', 'named': 'b'}
CLOSELY = {'close_ids': 'iu', 'close_label': 'iu', 'close_poisoned': 'b', 'close_verdict': 'u'}


class Mapped(TypedDict):
    """The file atlas.json; see `make_map`."""

    method: str
    images: int
    classes: list[int]
    named: list[int]
    aims: list[int]


def make_map(work: Work) -> None:
    """Writes atlas.npz and atlas.json for the report, on one host.

    A map of k images: all that are poisoned up to half of `MOST`, the rest drawn by the seed. 'ids'
    i64[k], 'points' f32[k 2], 'label' i32[k] as given, 'true' i32[k], 'poisoned' bool[k], 'named'
    bool[k] (the given label is one that the defence named). Of a few classes every image, ascending
    ids: 'close_ids' i64[m], 'close_label' i32[m], 'close_poisoned' bool[m], 'close_verdict' u8[m]
    (1 taken for clean, 2 doubted, 3 taken for poisoned; 0: its class is not suspected), and
    'close_foreign', 'close_score' f64[m] as far as the findings hold them. Mapped: 'method' of the
    map ('umap' where umap-learn is installed, else 'pca'), 'images' of the whole dataset, 'classes'
    looked at closely, those 'named' by the defence and those the poison 'aims' at.
    """
    if not devices.is_lead():
        return
    manifest, findings = Manifest.read(work.inputs['truth']), read_table(work.inputs['findings'])
    named = findings.facts.get('target_labels') or []
    aims = np.unique(manifest.given_labels[manifest.poisoned]).tolist()
    rows = choose_points(manifest, work.settings['seed'])
    features = read_table(work.inputs['features']).of(manifest.ids[rows], 'features')
    method, points = lay_out(features, work.settings['seed'])
    found = {
        'ids': manifest.ids[rows],
        'points': points,
        'label': manifest.given_labels[rows],
        'true': manifest.true_labels[rows],
        'poisoned': manifest.poisoned[rows],
        'named': np.isin(manifest.given_labels[rows], named),
    }
    classes = close_classes(named, aims, np.unique(manifest.given_labels).tolist())
    close = _look_close(manifest, findings, classes)
    found |= {f'close_{name}': column for name, column in close.items()}
    facts = {'method': method, 'images': len(manifest.ids), 'classes': classes}
    write_json(work.folder / FACTS, facts | {'named': named, 'aims': aims})
    write_columns(work.folder / FILE, found, compressed=True)


def read_map(folder: Path) -> Facts:
    """Reads what `make_map` wrote: arrays by name, and 'facts'."""
    facts = read_json(folder / FACTS, Mapped)
    return read_columns(folder / FILE, ON_MAP, CLOSELY) | {'facts': facts}


def choose_points(manifest: Manifest, seed: int) -> np.ndarray:
    """Draws rows i64[<= MOST] of the manifest, ascending; at most half of them are poisoned."""
    rng = stream_rng(seed, 'atlas')
    hit = rng.permutation(np.flatnonzero(manifest.poisoned))[: MOST // 2]
    rest = rng.permutation(np.flatnonzero(~manifest.poisoned))
    return np.sort(np.concatenate([hit, rest[: MOST - len(hit)]]))


def close_classes(named: list[int], aims: list[int], classes: list[int]) -> list[int]:
    """Chooses classes to look at closely: those named or aimed at, and others to compare with."""
    suspects = [*named, *(label for label in aims if label not in named)][:MOST_CLASSES]
    others = [label for label in classes if label not in named and label not in aims]
    return suspects + others[:INNOCENT]


def lay_out(features: np.ndarray, seed: int) -> tuple[str, np.ndarray]:
    """Lays features f[k d] out as points f32[k 2]; returns the method's name with them.

    By UMAP of 50 principal components, or the first two of these where it is not installed. Every
    feature is brought to mean 0 and variance 1 first. All runs on one thread, for sums depend on
    their order and UMAP (McInnes et al. 2018) on the last bit: the same features and seed give the
    same map by the same version of it.
    """
    with threadpool_limits(1):
        return _lay_out(features, seed)


def _lay_out(features: np.ndarray, seed: int) -> tuple[str, np.ndarray]:
    whole = features.astype(np.float64)
    deviation = whole.std(0)
    whole = (whole - whole.mean(0)) / np.where(deviation > 0, deviation, 1)
    if importlib.util.find_spec('umap') is None or len(whole) < 4:
        return 'pca', principal(whole, 2).astype(np.float32)
    import umap

    say(f'drawing a map of {len(whole):,} images by UMAP', passing=True)
    near, own = min(15, len(whole) - 1), stream_seed(seed, 'umap')
    mapped = umap.UMAP(n_neighbors=near, random_state=own, n_jobs=1)
    return 'umap', np.asarray(mapped.fit_transform(principal(whole, DIMENSIONS)), np.float32)


def principal(centred: np.ndarray, count: int) -> np.ndarray:
    """Projects centred rows f64[k d] onto their first principal components -> f64[k count].

    Zeros where there are fewer. A component's largest loading is positive: its sign is no accident
    of the library.
    """
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    kept = min(count, len(sizes))
    signs = np.sign(right[np.arange(kept), np.abs(right[:kept]).argmax(-1)])
    out = np.zeros((len(centred), count))
    out[:, :kept] = left[:, :kept] * sizes[:kept] * signs
    return out


def _look_close(manifest: Manifest, findings: Table, classes: list[int]) -> dict[str, np.ndarray]:
    rows = np.flatnonzero(np.isin(manifest.given_labels, classes))
    ids = manifest.ids[rows]
    if 'verdict' in findings.columns:
        verdict = findings.of(ids, 'verdict')
    else:
        # A filter has two verdicts, on every class.
        verdict = np.where(findings.of(ids, 'flagged'), 3, 1)
    columns = {'ids': ids, 'label': manifest.given_labels[rows]}
    columns |= {'poisoned': manifest.poisoned[rows], 'verdict': verdict.astype(np.uint8)}
    there = [name for name in CLOSE if name in findings.columns]
    return columns | {name: findings.of(ids, name).astype(np.float64) for name in there}
