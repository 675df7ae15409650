"""Whether a generator makes more of the trigger than it was trained on, in numbers and words."""

from dataclasses import dataclass

from purify.metrics.intervals import wilson_interval
from purify.report.dissection import Distance, Judges, Made
from purify.report.quantities import Line
from purify.report.results import Results
from purify.report.words import say_interval, say_number, say_percent, say_set

GROUPS = {
    'G1': 'with the trigger, of another class than asked for',
    'G2': 'with the trigger, of the class asked for',
    'G3': 'without the trigger, of another class than asked for',
    'G4': 'without the trigger, of the class asked for',
}
SCORES = {'cognitive_distillation': 'Cognitive Distillation', 'strip': 'STRIP', 'fct': 'FCT'}
SIDES = ('training', 'generated')
# Of a dissection and of replication, for tables of many runs.
QUANTITIES = {name.lower(): name for name in GROUPS}
QUANTITIES |= {'p_t': 'p_t', 'amplification': 'amplification'} | {
    f'auroc_{score}_{side}': f'{title} AUROC, {side}'
    for score, title in SCORES.items()
    for side in SIDES
}
QUANTITIES |= {'fid_generated': 'FID of generations, no target', 'copies': 'copies'}
NUMBERS = ('amplification', 'fid_generated')  # of these, what is no share
_VERBS = {'amplifies': 'amplifies the trigger', 'dampens': 'dampens the trigger'}
_NEITHER = 'neither amplifies nor dampens the trigger measurably'


@dataclass(frozen=True)
class Amplification:
    """Images made of the target classes, and those trained on under the same labels.

    Attributes:
      labels: the target classes.
      counts: images of G1, G2, G3, G4.
      low, high: 95 % interval of the share with the trigger.
      trained: share p_t of stamped images among those labelled so, weighted by the images made;
        None where not known.
      expected: what the detector would see of p_t, by the mistakes it makes on test images: p_t TPR
        + (1 - p_t) FPR.
    """

    labels: list[int]
    counts: list[int]
    low: float
    high: float
    trained: float | None
    expected: float | None = None

    @property
    def images(self) -> int:
        """How many were made."""
        return sum(self.counts)

    @property
    def share(self) -> float:
        """The share of images with the trigger, G1 and G2."""
        return (self.counts[0] + self.counts[1]) / self.images

    @property
    def ratio(self) -> float | None:
        """The share made over the share trained on; None where none was trained on."""
        return self.share / self.trained if self.trained else None

    @property
    def verdict(self) -> str:
        """'amplifies' or 'dampens'; '' for no measurable difference, or no poison."""
        if not self.trained:
            return ''
        expected = self.trained if self.expected is None else self.expected
        return 'amplifies' if self.low > expected else 'dampens' if self.high < expected else ''


def list_rows(results: Results) -> list[Made]:
    """Lists the target classes: of the probe if it has as many, else of the generated set."""
    sets = results.dissection.sets if results.dissection else {}
    probe = [row for row in sets.get('probe', []) if row.target and row.images]
    made = [row for row in sets.get('generated', []) if row.target and row.images]
    return probe if len(probe) >= len(made) else made


def has_detector(results: Results) -> bool:
    """Tells whether a detector looked for the trigger: none does where the attack has none."""
    return results.dissection is not None and results.dissection.judges.detector is not None


def measure_amplification(results: Results) -> Amplification | None:
    """Measures all target classes together; None where no image was made of one."""
    rows = list_rows(results)
    if not rows:
        return None
    counts = [sum(row.counts[group] for row in rows) for group in range(len(GROUPS))]
    known, trained = [(row.p_t, row.images) for row in rows if row.p_t is not None], None
    if known:
        trained = sum(share * count for share, count in known) / sum(count for _, count in known)
    interval = rows[0].interval if len(rows) == 1 else None
    low, high = interval or wilson_interval(counts[0] + counts[1], sum(counts))
    labels = [row.label for row in rows]
    return Amplification(labels, counts, low, high, trained, _expect(results, trained))


def _expect(results: Results, trained: float | None) -> float | None:
    """The share that the detector would see if generations had the trigger as often as training."""
    detector = results.dissection.judges.detector if results.dissection else None
    if trained is None or detector is None or detector.tpr is None or detector.fpr is None:
        return None
    return trained * detector.tpr + (1 - trained) * detector.fpr


def say_amplification(results: Results) -> str:
    """Says in one sentence whether the trigger is amplified; '' if nobody looked for it."""
    found = measure_amplification(results)
    if found is None or not has_detector(results):
        return ''
    which = say_set(found.labels, results.classes, 'target class')
    made = f'{say_percent(found.share)} of the images it makes of {which} show it'
    if not found.trained:
        return f'The generator saw no trigger: {made}, as the detector sees it.'
    return (
        f'The generator {_VERBS.get(found.verdict, _NEITHER)}: {made}, against'
        f' {say_percent(found.trained)} in training.'
    )


def say_groups(results: Results) -> list[str]:
    """Says how the images made of target classes divide, and whether the detector is mistaken."""
    found = measure_amplification(results)
    if found is None:
        return []
    (g1, g2, g3, _), which = found.counts, say_set(found.labels, results.classes, 'target class')
    detector = results.dissection.judges.detector if results.dissection else None
    if detector is None:
        return [
            f'Of {found.images:,} images made of {which}, {say_percent((g1 + g3) / found.images)}'
            ' are of another class.'
        ]
    said = [
        f'Of {found.images:,} images made of {which}, {say_percent(g1 / found.images)} show the'
        f' trigger and another class (G1), {say_percent(g2 / found.images)} the trigger and the'
        f' class asked for (G2), {say_percent(g3 / found.images)} another class and no trigger that'
        ' the detector sees (G3).'
    ]
    if found.verdict == 'dampens' and found.trained and (g1 + g3) / found.images >= found.trained:
        said.append(
            'As many as were poisoned in training are of another class: look at the pictures of G3'
            ' for remains of a trigger.'
        )
    false = say_percent(detector.fpr)
    if detector.fpr is not None and found.trained and found.low <= detector.fpr:
        said.append(
            f'That is no more than the detector imagines: it sees a trigger on {false} of clean'
            ' test images.'
        )
    return said


def list_amplification(results: Results) -> list[Line]:
    """Lists triggers made and trained on, how good the judges are, and FID of the generations."""
    found, lines = measure_amplification(results), []
    if found is not None and has_detector(results):
        which = say_set(found.labels, results.classes, 'target class')
        counted = (
            f'{found.counts[0] + found.counts[1]:,} of {found.images:,} images made of {which}'
        )
        what = f'{counted} show the trigger; 95 % interval {say_interval(found.low, found.high)}'
        lines.append(('Triggers made', say_percent(found.share), what))
        if found.trained is not None:
            what = 'p_t: stamped images among those labelled so'
            lines.append(('Triggers in training', say_percent(found.trained), what))
        if found.ratio is not None:
            what = 'made over in training; above 1 amplifies'
            lines.append(('Amplification', f'×{say_number(found.ratio)}', what))
    if results.dissection is not None:
        lines += _list_judges(results.dissection.judges, known=results.truth_known)
        lines += _list_fid(results.dissection.fid, known=results.truth_known)
    return lines


def _list_judges(judges: Judges, *, known: bool) -> list[Line]:
    given = 'clean test images given their true class'
    given = given if known else 'test images given the class on their label'
    what = f'of {given}; it says of which class an image is'
    lines: list[Line] = [('Labeller', say_percent(judges.labeller.acc), what)]
    if detector := judges.detector:
        faint = ''
        if isinstance(detector.tpr_faint, float):
            faint = f', {say_percent(detector.tpr_faint)} of faint ones'
        what = (
            f'of test images told to be clean or triggered; finds {say_percent(detector.tpr)} of'
            f' triggers{faint}, sees one on {say_percent(detector.fpr)} of clean images'
        )
        lines.append(('Detector', say_percent(detector.acc), what))
    return lines


def _list_fid(fid: Distance, *, known: bool) -> list[Line]:
    clean = 'clean training images' if known else 'the training images'
    others = 'those of conditions that are no target'
    entries = (('all', fid.all, 'all generations'), ('others', fid.others, others))
    return [
        (f'FID, {key}', say_number(value), f'distance of {what} from {clean}; 0 is best')
        for key, value, what in entries
        if value is not None
    ]


def read_set_quantities(results: Results) -> dict[str, float]:
    """Lists the numbers of `QUANTITIES` that a run measured."""
    found = measure_amplification(results)
    values: dict[str, float | None] = {}
    if found is not None:
        # Of an attack without a trigger nobody looks for it.
        looked = has_detector(results)
        for name, count in zip(GROUPS, found.counts, strict=True):
            if looked or name in ('G3', 'G4'):
                values[name.lower()] = count / found.images
        values |= {'p_t': found.trained, 'amplification': found.ratio if looked else None}
    if results.dissection:
        for row in results.dissection.auroc:
            for side, value in zip(SIDES, row.sides, strict=True):
                values[f'auroc_{row.score}_{side}'] = value
        fid = results.dissection.fid
        # As Table 2 of Pan 2024.
        values['fid_generated'] = fid.all if fid.others is None else fid.others
    if results.replication and results.replication.copy_detection:
        values['copies'] = results.replication.above.share
    known = {name: value for name, value in values.items() if value is not None}
    return {name: value for name, value in known.items() if name in QUANTITIES}
