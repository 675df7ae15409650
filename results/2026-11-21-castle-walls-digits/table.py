"""The README's tables from the runs beside this file: generation-RATE-SEED.json and
diffusion-RATE-SEED.json; mean (range).
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
RATES = ('0.01', '0.02', '0.05', '0.1')
SCORES = ('cognitive_distillation', 'strip', 'fct')


def runs(kind, rate):
    """The results of the runs of one rate."""
    return [json.loads(path.read_text()) for path in sorted(HERE.glob(f'{kind}-{rate}-*.json'))]


def say(values, places=3):
    """Mean (range), of those that were measured."""
    values = [value for value in values if value is not None]
    if not values:
        return '–'
    mean = sum(values) / len(values)
    return f'{mean:.{places}f} ({min(values):.{places}f} to {max(values):.{places}f})'


def row(*cells):
    """A line of a table."""
    print('| ' + ' | '.join(map(str, cells)) + ' |')


def head(*cells):
    """Its first line."""
    row(*cells)
    print('|' + '---|' * len(cells))


def probe(run):
    """What generations under the target class are."""
    return run['dissection']['sets']['probe'][0]


head(
    'rate',
    'seeds',
    'p_t',
    'trigger share',
    'G1',
    'G2',
    'G3',
    'G4',
    'FID, all',
    'FID, other classes',
)
for rate in RATES:
    found = runs('generation', rate)
    rows = [probe(run) for run in found]
    groups = [say([r['shares'][group] for r in rows]) for group in range(4)]
    fids = [say([run['dissection']['fid'][name] for run in found], 2) for name in ('all', 'others')]
    row(
        rate,
        len(found),
        say([r['p_t'] for r in rows]),
        say([r['triggered'] for r in rows]),
        *groups,
        *fids,
    )
print()
head('rate', 'trained on poison: ACC', 'ASR', 'on generations: ACC', 'ASR')
for rate in RATES:
    found = runs('generation', rate)
    row(
        rate,
        *(
            say([run[who][what] for run in found])
            for who in ('teacher', 'student')
            for what in ('acc', 'asr')
        ),
    )
print()
head(
    'rate',
    *(f'{score}, {where}' for score in SCORES for where in ('training', 'generated')),
    'generations with the trigger',
)
for rate in RATES:
    found = [
        {one['score']: one for one in run['dissection']['auroc']}
        for run in runs('generation', rate)
    ]
    cells = [
        say([one[score][where] for one in found])
        for score in SCORES
        for where in ('training', 'generated')
    ]
    row(rate, *cells, say([one['strip']['triggered'] for one in found], 0))
print()
head('rate', *(f'p_filter {share}: ACC, ASR' for share in (0, 0.01, 0.05, 0.1)))
for rate in RATES:
    found = [run['diffusion']['filters'] for run in runs('diffusion', rate)]
    cells = [
        ', '.join(say([filters[place][what] for filters in found]) for what in ('acc', 'asr'))
        for place in range(4)
    ]
    row(rate, *cells)
