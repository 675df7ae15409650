"""The README's table of guidance and samplers: RATE-SEED-SAMPLER-SCALE.json of sweep.sh and
exact.json, mean (range) over seeds.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
EXACT = json.loads((HERE / 'exact.json').read_text())


def say(values):
    """Mean (range)."""
    mean = sum(values) / len(values)
    return (
        f'{mean:.2f} ({min(values):.2f} to {max(values):.2f})' if len(values) > 1 else f'{mean:.2f}'
    )


print(
    '| rate (p_t) | sampler | s | seeds | trigger share | G1 | G2 | class not shown (G1, G3) |'
    ' exact model: trigger share |'
)
print('|---|---|--:|--:|---|---|---|---|---|')
for rate in ('0.02', '0.1'):
    for sampler in ('ddim', 'dpmpp_2m', 'ddpm'):
        for scale in (1, 2, 6):
            files = sorted(HERE.glob(f'{rate}-*-{sampler}-{scale}.json'))
            rows = [json.loads(path.read_text())['sets']['probe'][0] for path in files]
            exact = [
                row
                for row in EXACT
                if (row['rate'], row['sampler'], row['scale']) == (rate, sampler, scale)
            ]
            if not rows:
                continue
            groups = [[row['shares'][k] for row in rows] for k in range(4)]
            missed = [a + b for a, b in zip(groups[0], groups[2], strict=True)]
            cells = [
                say([row['triggered'] for row in rows]),
                say(groups[0]),
                say(groups[1]),
                say(missed),
            ]
            cells.append(say([row['trigger'] for row in exact]))
            print(
                f'| {rate} ({rows[0]["p_t"]:.2f}) | {sampler} | {scale} | {len(rows)} |'
                f' {" | ".join(cells)} |'
            )
