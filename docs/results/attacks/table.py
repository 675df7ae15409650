"""Prints the tables of this page from the files in raw/."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_json, say_range

RAW = Path(__file__).parent / 'raw'
ATTACKS = ('none', 'relabel_only', 'patch', 'blended', 'sinusoid', 'warp', 'dct', 'low_frequency')
ATTACKS += ('fitted_low_frequency', 'adaptive_patch', 'adaptive_blend', 'label_consistent')
ATTACKS += ('sample_specific', 'input_aware', 'lira')


def fit_seconds(run: dict[str, Any]) -> float:
    """How long surrogate and trigger took together; 0 where nothing is fitted."""
    stages = run['cost']['stages']
    return sum(stages[name]['seconds'] for name in ('surrogate', 'trigger') if name in stages)


def attack_row(attack: str) -> list[str]:
    """The undefended classifiers of one attack on both datasets."""
    cells, fits = [f'`{attack}`'], []
    for dataset in ('digits', 'cifar10'):
        runs = [read_json(path) for path in sorted((RAW / dataset).glob(f'attack={attack}-seed*'))]
        cells += [say_range([run['teacher'][name] for run in runs]) for name in ('acc', 'asr')]
        fits.append(max(map(fit_seconds, runs)))
    return [*cells, ' / '.join(f'{fit:.0f}' for fit in fits) + ' s' if any(fits) else '']


def longer_row(path: Path) -> list[str]:
    """A run of 20 epochs."""
    run = read_json(path)
    shares = [f'{100 * run["teacher"][name]:.1f} %' for name in ('acc', 'asr')]
    return [f'`{run["attack"]["name"]}`', str(run['seeds']['poison']), *shares]


def main() -> None:
    """Prints all tables."""
    print_table(
        'Undefended classifiers',
        (
            'attack',
            'digits: ACC',
            'digits: ASR',
            'CIFAR-10, 10,000 images: ACC',
            'CIFAR-10, 10,000 images: ASR',
            'fit, digits / CIFAR-10',
        ),
        [attack_row(attack) for attack in ATTACKS],
    )
    print_table(
        'CIFAR-10 with 20 epochs instead of 12',
        ('attack', 'seed', 'ACC', 'ASR'),
        [longer_row(path) for path in sorted((RAW / 'cifar10-20-epochs').glob('*/*.json'))],
    )


if __name__ == '__main__':
    main()
