"""The stage that fits a density to the features of each class and evaluates it for every image."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np

from purify.core import devices
from purify.core.errors import UserError
from purify.core.types import Facts, Settings
from purify.data.loader import Split
from purify.data.table import Table
from purify.defenses.method import Step
from purify.defenses.relabelling.poisoned_classes import own_and_foreign
from purify.engine.stage import Work
from purify.engine.tables import read_table, write_table
from purify.models.flow import CouplingFlow
from purify.stages.kind import Kind
from purify.stages.known import Known
from purify.train.class_batches import Fit
from purify.train.density import Densities, fit_flows
from purify.train.state import abstract_network

FLAT = 1e-12  # of the largest variance: below it a direction holds rounding, not features


def run(work: Work) -> None:
    """Fits a normalizing flow to the `features` of each class as labelled; writes a table.

    With `fit.hold_out` flows are first fitted without these images, to find the epoch under which
    they are likeliest, and then afresh to all images up to that epoch: what a flow was not fitted
    to is less likely under it, and would be taken for poison.

    Column `log_density` f32[n C] in nats, of the features as `prepare_features` leaves them.
    Settings: `flows` (`purify.models.flow.CouplingFlow`, and `reduce`), `fit`
    (`purify.train.class_batches.Fit`), `seed`. Facts: of the features, the epoch, of the fit of
    every class, and `apart`, of that without the images held out.
    """
    settings = work.settings
    split = Split(work.inputs['poisoned'], 'train')
    flow, reduce = split_flow(settings['flows'])
    measured = read_table(work.inputs['features']).of(split.ids, 'features')
    features, facts = prepare_features(measured, reduce)
    fit, shown = Fit(**settings['fit']), {}
    rows = features, split.labels, split.ids, len(split.class_names)
    common = {'cost': work.cost, 'save_every': work.run['save_every'], 'writers': work.writers}
    train = partial(fit_flows, *rows, flow, seed=settings['seed'], **common)
    if fit.hold_out:
        place = {'folder': work.folder / 'apart', 'name': f'{work.name} apart'}
        apart = train(fit=replace(fit, members=1), **place)
        shown = {'apart': describe_classes(apart, split.labels)}
        fit = replace(fit, epochs=float(apart.best_epoch), hold_out=0.0)
    found = train(fit=fit, folder=work.folder, name=work.name)
    if devices.is_lead():
        columns = {'ids': split.ids, 'log_density': found.log_density}
        shown |= {'epoch': found.best_epoch, 'labels': describe_classes(found, split.labels)}
        write_table(work.folder, Table(columns, facts | shown))
    devices.barrier(f'{work.name} written')


def check_flow(flows: Settings, fit: Settings, width: int) -> int:
    """How many parameters the flow of a class has on `width` features.

    Raises `UserError` for settings that do not fit.
    """
    flow, reduce = split_flow(flows)
    Fit(**fit)
    if reduce and not 2 <= reduce <= width:
        raise UserError(
            f'flows.reduce={reduce}: there are {width} features. Choose 2 to {width}, or 0 for all.'
        )
    _, weights = abstract_network(lambda rngs: CouplingFlow(reduce or width, **flow, rngs=rngs))
    return sum(x.size for x in jax.tree.leaves(weights['params']))


def split_flow(flows: Settings) -> tuple[Facts, int]:
    """Splits the settings `flows` into those of the flow and how far to reduce features."""
    return {name: flows[name] for name in flows if name != 'reduce'}, flows['reduce']


def prepare_features(features: np.ndarray, reduce: int = 0) -> tuple[np.ndarray, Facts]:
    """Brings features [n d] to mean 0 and variance 1 over the images; returns f32[n k] and facts.

    Computed in float64. Dimensions that never vary are left out: they say nothing, and a flow would
    make any density of them. With `reduce`, the first so many principal components of what is left,
    of variance 1 too.

    Raises `UserError` for features that are not finite, all alike, or of fewer than `reduce`
    dimensions.
    """
    whole = features.astype(np.float64)
    if not np.isfinite(whole).all():
        bad = np.flatnonzero(~np.isfinite(whole).all(1))
        raise UserError(
            f'the features of {len(bad)} images (row {bad[0]} is the first) are not finite; train'
            ' the encoder anew.'
        )
    whole -= whole.mean(0)
    spread = whole.std(0)
    kept = spread > np.sqrt(FLAT) * spread.max(initial=0)
    if kept.sum() < 2:
        raise UserError(
            f'of {len(spread)} features {int(kept.sum())} vary over the images; a density needs 2.'
            ' Train the encoder anew.'
        )
    whole = whole[:, kept] / spread[kept]
    facts = {'features': len(spread), 'dimensions': int(kept.sum()), 'explained': 1.0}
    if not reduce:
        return whole.astype(np.float32), facts
    variances, axes = np.linalg.eigh(whole.T @ whole / len(whole))
    variances, axes = variances[::-1], axes[:, ::-1]
    rank = int((variances > FLAT * variances[0]).sum())
    if not 2 <= reduce <= rank:
        raise UserError(
            f'flows.reduce={reduce}: these features vary in {rank} directions. Choose 2 to {rank},'
            ' or 0 for all of them.'
        )
    axes, share = axes[:, :reduce], float(variances[:reduce].sum() / variances.sum())
    # Either sign is an eigenvector: take one.
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(reduce)])
    facts |= {'dimensions': reduce, 'explained': share}
    return (whole @ axes / np.sqrt(variances[:reduce])).astype(np.float32), facts


def describe_classes(found: Densities, labels: np.ndarray) -> list[Facts]:
    """Describes the fit of each class: images, updates, mean negative log density in nats."""
    own = -own_and_foreign(found.log_density.astype(np.float64), labels)[0]

    def mean(rows: np.ndarray) -> float | None:
        return float(own[rows].mean()) if rows.any() else None

    return [
        {
            'label': label,
            'images': int((labels == label).sum()),
            'updates': int(found.updates[label]),
            'nll_train': mean((labels == label) & ~found.held),
            'nll_held': mean((labels == label) & found.held),
        }
        for label in range(found.log_density.shape[1])
    ]


def shape(known: Known, step: Step) -> None:
    """Checks the flows against the features that they are to be fitted to."""
    width = known.widths.get(step.inputs['features'])
    if width is not None:  # else the step that measures them has said why
        count = check_flow(step.settings['flows'], step.settings['fit'], width)
        flows = f'{known.data.classes} flows of {count:,} parameters on {width} features'
        known.found.notes.append(f'{step.name}: {flows}')
        known.found.uncounted.append(f'{step.name} (flows on features)')


KIND = Kind(run, shape, ('seed',))
