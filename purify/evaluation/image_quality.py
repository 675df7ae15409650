"""How good purified images are: FID against the images before the attack, inception scores."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from purify.core import devices
from purify.core.errors import UserError
from purify.core.progress import Bar
from purify.core.types import Facts, Tree
from purify.data.loader import Split
from purify.engine.gather import exchange, look_in_turn
from purify.engine.stage import Work
from purify.engine.tables import read_table
from purify.evaluation.clean_images import CleanImages
from purify.metrics.distribution import Answers, Moments, frechet_distance, inception_score, merged
from purify.stages.classifier import Classifier
from purify.stages.networks_on_disk import read_classifier
from purify.train.inference import Rows

NONE = 'none'
OWN = ('student', 'teacher')  # of a run; any other name is the folder of a finished classifier


@dataclass(frozen=True)
class Likeness:
    """Sums of a network's features and answers over a set of images."""

    moments: Moments
    answers: Answers


def describe_likeness(work: Work) -> Facts | None:
    """Rates purified images: {'fid', 'is', 'is_raw', 'images', 'remade', 'features', 'notes'}.

    None where not asked for. Features and answers are those of the network `features`, which no
    Inception is: the run's student or teacher, or the input of that role. FID compares with the
    training images as they were before the attack; 'is_raw' is the score of these. 'remade':
    whether the defence made any image anew, or only dropped and relabelled some; then the numbers
    say nothing of it. A number is None, with a note, where there are too few images or it is not
    finite.
    """
    chosen = work.settings['features']
    if chosen == NONE or 'purified' not in work.inputs:
        return None
    role = chosen if chosen in OWN else 'features'
    if role not in work.inputs:
        raise UserError(
            f'evaluation.features={chosen!r}: this run has no {role}. Choose {NONE!r}, or another'
            ' network.'
        )
    model = read_classifier(work.inputs[role])
    purified = Split(work.inputs['purified'], 'train')
    given = Split(work.inputs['poisoned'], 'train')
    before = CleanImages(given, work.inputs['truth'])
    with Bar(f'{work.name} images', len(purified) + len(given), shown=devices.is_lead()) as bar:
        made = lambda i: purified[i]['image']
        after = sum_up(work, model, made, len(purified), purified.shape, 'purified', bar)
        raw = sum_up(work, model, before.__getitem__, len(before), given.shape, 'benign', bar)
    found = {'fid': frechet_distance(after.moments, raw.moments)}
    found |= {'is': inception_score(after.answers), 'is_raw': inception_score(raw.answers)}
    return found | {
        'images': after.moments.count,
        'remade': _remade(work),
        'features': f'{role if chosen in OWN else Path(chosen).name} ({model.describe()})',
        'notes': warn(found, after.moments, raw.moments),
    }


def _remade(work: Work) -> bool:
    """Whether a candidate replaced any image that was kept; True if the method does not say."""
    columns = read_table(work.inputs['findings']).columns if 'findings' in work.inputs else {}
    if 'candidate' not in columns:
        return True
    return bool((columns.get('keep', True) & (columns['candidate'] >= 0)).any())


def warn(found: dict[str, float | None], *sets: Moments) -> list[str]:
    """Warns readers of the numbers: of too few images, or of numbers that are not finite."""
    smallest, width = min(moments.count for moments in sets), sets[0].mean.size
    if smallest < 2:
        return [f'{smallest} images are too few for FID.']
    if None in found.values():
        return ['The network gave numbers that are not finite for some image.']
    if smallest <= width:
        return [
            f'{smallest:,} images and features of {width:,} numbers: FID is biased upwards; compare'
            ' equal numbers only.'
        ]
    return []


def sight(
    model: Classifier, shape: tuple[int, int, int]
) -> Callable[[Tree, Rows], tuple[jax.Array, jax.Array]]:
    """Makes the function that gives the logits and the features of a network.

    It maps (weights, rows with images u8[b h w c]) to (logits f32[b k], features f32[b d]).

    Images of `shape` are made grey or repeated to its channels; `UserError` where neither is
    possible.
    """
    width = model.facts['channels']
    if shape[2] != width and 1 not in (shape[2], width):
        raise UserError(
            f'the network of FID looks at {width} channels; the images have {shape[2]}. Choose'
            ' another.'
        )

    def see(weights: Tree, rows: Rows) -> tuple[jax.Array, jax.Array]:
        images = rows['image'].astype(jnp.float32) / 255
        images = images.mean(-1, keepdims=True) if shape[2] > width else images
        return model.answer(weights, jnp.broadcast_to(images, (*images.shape[:3], width)))

    return see


def sum_up(
    work: Work,
    model: Classifier,
    fetch: Callable[[int], np.ndarray],
    count: int,
    shape: tuple[int, int, int],
    name: str,
    bar: Bar,
) -> Likeness:
    """Sums a network's features and answers over `count` images u8[h w c] of `shape`.

    Hosts take every so-many-th one and leave their sums in files, called after `name`, for each
    other.
    """
    see = sight(model, shape)

    def rule(weights: Tree, rows: Rows) -> Rows:
        logits, features = see(weights, rows)
        return {'logits': logits, 'features': features}

    rows = {'image': jax.ShapeDtypeStruct((1, *shape), jnp.uint8)}
    like = jax.eval_shape(rule, model.weights, rows)
    moments = Moments.of(np.zeros((0, like['features'].shape[1])))
    answers = Answers.of(np.zeros((0, like['logits'].shape[1])))
    record = lambda i: {'image': fetch(i)}
    for seen in look_in_turn(work, rule, model.weights, record, np.arange(count), bar):
        moments += Moments.of(seen['features'])
        answers += Answers.of(seen['logits'])
    return merge_hosts(work, name, Likeness(moments, answers))


def merge_hosts(work: Work, name: str, mine: Likeness) -> Likeness:
    """Adds what all hosts found, in the same order on each, through files called after `name`."""
    moments, answers = mine.moments, mine.answers
    if jax.process_count() == 1:
        return mine
    own = {'count': moments.count, 'mean': moments.mean, 'scatter': moments.scatter}
    own |= {'answers': answers.count, 'total': answers.total, 'certainty': answers.certainty}
    hosts = exchange(work, name, {key: np.asarray(value, np.float64) for key, value in own.items()})
    every, said = [], []
    for host in hosts:
        every.append(Moments(int(host['count']), host['mean'], host['scatter']))
        said.append(Answers(int(host['answers']), host['total'], float(host['certainty'])))
    return Likeness(merged(every), merged(said))
