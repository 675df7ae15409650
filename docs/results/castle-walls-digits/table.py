"""Prints the tables of this page from the files in raw/."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_json, say_number

RAW = Path(__file__).parent / 'raw'
RATES = ('0.01', '0.02', '0.05', '0.1')
SCORES = {'cognitive_distillation': 'Cognitive Distillation', 'strip': 'STRIP', 'fct': 'FCT'}
PLACES = ('training', 'generated')


def runs_of(kind: str, rate: str) -> list[dict[str, Any]]:
    """The runs of one kind and rate."""
    return [read_json(path) for path in sorted((RAW / '2026-11-21').glob(f'{kind}-{rate}-*.json'))]


def probe_row(rate: str) -> list[str]:
    """What the generations of the target class are."""
    runs = runs_of('generation', rate)
    probes = [run['dissection']['sets']['probe'][0] for run in runs]
    return [
        rate,
        str(len(runs)),
        say_number([probe['p_t'] for probe in probes], 3),
        say_number([probe['triggered'] for probe in probes], 3),
        *(say_number([probe['shares'][group] for probe in probes], 3) for group in range(4)),
        *(say_number(run['dissection']['fid'][name] for run in runs) for name in ('all', 'others')),
    ]


def guided_row(rate: str, sampler: str, scale: int, exact: list[dict[str, Any]]) -> list[str]:
    """Generations of the target class under guidance, beside those of an exact model."""
    folder = RAW / '2026-11-29'
    runs = [read_json(path) for path in sorted(folder.glob(f'{rate}-*-{sampler}-{scale}.json'))]
    probes = [run['sets']['probe'][0] for run in runs]
    shares = [[probe['shares'][group] for probe in probes] for group in range(3)]
    other_class = [one + three for one, three in zip(shares[0], shares[2], strict=True)]
    key = (rate, sampler, scale)
    same = [row for row in exact if (row['rate'], row['sampler'], row['scale']) == key]
    return [
        f'{rate} ({probes[0]["p_t"]:.2f})',
        sampler,
        str(scale),
        str(len(runs)),
        say_number([probe['triggered'] for probe in probes]),
        say_number(shares[0]),
        say_number(shares[1]),
        say_number(other_class),
        say_number([row['trigger'] for row in same]),
    ]


def student_row(rate: str) -> list[str]:
    """Classifiers trained on the poison and on generations."""
    runs = runs_of('generation', rate)
    sides = [(side, name) for side in ('teacher', 'student') for name in ('acc', 'asr')]
    return [rate, *(say_number([run[side][name] for run in runs], 3) for side, name in sides)]


def detection_row(rate: str) -> list[str]:
    """AUROC of each score on the training set and on generations."""
    runs = [
        {row['score']: row for row in run['dissection']['auroc']}
        for run in runs_of('generation', rate)
    ]
    cells = [
        say_number([run[score][place] for run in runs], 3) for score in SCORES for place in PLACES
    ]
    return [rate, *cells, say_number([run['strip']['triggered'] for run in runs], 0)]


def classifier_row(kind: str, rate: str) -> list[str]:
    """The diffusion classifier with every share that is filtered out."""
    filters = [run['diffusion']['filters'] for run in runs_of(kind, rate)]
    cells = [
        ', '.join(say_number([row[place][name] for row in filters], 3) for name in ('acc', 'asr'))
        for place in range(4)
    ]
    return [rate, 'EDM' if kind == 'edm' else 'equal', str(len(filters)), *cells]


def main() -> None:
    """Prints all tables."""
    groups = ('G1', 'G2', 'G3', 'G4')
    print_table(
        '200 generations of the target class, without guidance',
        ('rate', 'seeds', 'p_t', 'trigger share', *groups, 'FID, all', 'FID, other classes'),
        map(probe_row, RATES),
    )
    exact = read_json(RAW / '2026-11-29' / 'exact.json')
    print_table(
        '200 generations of the target class, under guidance',
        (
            'rate (p_t)',
            'sampler',
            's',
            'seeds',
            'trigger share',
            'G1',
            'G2',
            'class not shown (G1, G3)',
            'exact model: trigger share',
        ),
        [
            guided_row(rate, sampler, scale, exact)
            for rate in ('0.02', '0.1')
            for sampler in ('ddim', 'dpmpp_2m', 'ddpm')
            for scale in (1, 2, 6)
        ],
        left=2,
    )
    print_table(
        'Classifiers trained on the poison and on 1,600 generations of all classes',
        (
            'rate',
            'trained on poison: ACC',
            'trained on poison: ASR',
            'on generations: ACC',
            'on generations: ASR',
        ),
        map(student_row, RATES),
    )
    print_table(
        'AUROC of detectors, on the training set and on the generated set',
        (
            'rate',
            *(f'{score}, {place}' for score in SCORES.values() for place in PLACES),
            'generations with the trigger',
        ),
        map(detection_row, RATES),
    )
    print_table(
        'The diffusion classifier',
        (
            'rate',
            'weights',
            'seeds',
            *(f'p_filter {share}: ACC, ASR' for share in (0, 0.01, 0.05, 0.1)),
        ),
        [*(classifier_row('diffusion', rate) for rate in RATES), classifier_row('edm', '0.02')],
        left=2,
    )


if __name__ == '__main__':
    main()
