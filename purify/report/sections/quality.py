"""How good purified images are, where the defence made some anew."""

from purify.report.markup import Section, fill
from purify.report.quantities import Line
from purify.report.results import Purified, Results
from purify.report.run import Finished
from purify.report.words import say_number

_ZERO = 0.0005  # numbers nearer to 0 than that are 0


def section(run: Finished) -> Section | None:
    """Shows FID and inception scores, and the network that they come from."""
    lines, note = list_likeness(run.results), say_likeness(run.results)
    return fill('quality', 'Image quality', lines=lines, note=note) if lines or note else None


def list_likeness(results: Results) -> list[Line]:
    """Lists FID and inception scores of purified images; none where no image was made anew."""
    found = _of_remade(results)
    before = 'before the attack' if results.truth_known else 'as they were given'
    if found is None:
        return []
    entries = [
        ('FID', found.fid, f'distance of the purified images from the images {before}; 0 is best'),
        ('IS', found.inception, 'inception score of the purified images; higher is better'),
        ('IS before', found.is_raw, f'inception score of the images {before}'),
    ]
    return [(name, _say(value), meaning) for name, value, meaning in entries if value is not None]


def say_likeness(results: Results) -> str:
    """Says which network the numbers come from and what else to know; '' without numbers."""
    found = _of_remade(results)
    if found is None:
        return ''
    text = (
        f'Features and answers of {found.features}, not of Inception: compare them with runs of'
        ' this network only.'
    )
    return ' '.join([text, *found.notes])


def _of_remade(results: Results) -> Purified | None:
    """The numbers of images that were made anew; None if they were only dropped or relabelled."""
    found = results.purified
    return None if found is None or found.remade is False else found


def _say(value: float) -> str:
    """A rounding error of the matrix root is no distance."""
    return '0' if abs(value) < _ZERO else say_number(value)
