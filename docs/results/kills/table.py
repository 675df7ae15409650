"""Prints the table of this page from the log in raw/."""

import re
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table

LOG = Path(__file__).parent / 'raw' / 'log.txt'


def main() -> None:
    """Prints the table."""
    text = LOG.read_text(encoding='utf-8')
    finished = Counter(re.findall(r'^killed \d+ times; finished so far: (.*)$', text, re.MULTILINE))
    passed, minutes = re.findall(r'^(\d+ passed).* in [\d.]+s \(([\d:]+)\)$', text, re.MULTILINE)[0]
    rows = [[f'`{stages}`', str(count)] for stages, count in finished.items()]
    rows.append(['all kills', str(sum(finished.values()))])
    rows.append(['outcome of the test, wall time', f'{passed}, {minutes}'])
    print_table('Kills by the stages that were finished', ('finished stages', 'kills'), rows)


if __name__ == '__main__':
    main()
