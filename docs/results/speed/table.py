"""Prints the tables of this page from the files in raw/."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import print_table, read_json, read_lines

RAW = Path(__file__).parent / 'raw'
IMAGES = 50_000  # of CIFAR-10
CALLS = 75  # network evaluations of DataElixir's fast chain for an image
TARGETS = {  # file: title
    'cifar10-dataelixir-h200': 'DataElixir on CIFAR-10, one H200, FLOPs and bytes of a row',
    'cifar10-prior-h200': 'Training a DDPM on CIFAR-10, one H200',
    'imagenette-h200': 'Versatile Diffusion and ResNet-50 at 512 and 224 px, one H200',
    'imagenette-img2img-h200': 'Stable Diffusion 1 at 512 px, one H200',
    'cifar10-dataelixir-v5e': 'DataElixir on CIFAR-10, one TPU v5e',
}
WORK = {
    'variations': 'image variations, a quarter of SD',
    'edit': 'DDPM at 32 px, editing',
    'classifier': 'ResNet-18, a training step',
    'contrast': 'SimCLR on ResNet-18, a step',
    'denoise': 'DDPM at 32 px, a training step',
}


def say_ratio(run: dict[str, Any], kind: str) -> str:
    """The median of the ratios of all rounds, and the smallest and largest."""
    low, high = run[f'{kind}_ratios']
    return f'{run[f"{kind}_ratio"]:.2f} ({low:.2f} to {high:.2f})'


def row(run: dict[str, Any]) -> list[str]:
    """One workload on so many threads."""
    median = lambda side: sorted(run[side]['processor_s'])[len(run[side]['processor_s']) // 2]
    spent = [f'{median(side):.2f} s' for side in ('purify', 'pytorch')]
    ratios = [say_ratio(run, kind) for kind in ('processor', 'wall')]
    return [WORK[run['workload']], str(run['batch']), str(run['threads']), *spent, *ratios]


def convolution_row(run: dict[str, Any]) -> list[str]:
    """GFLOP/s of the formulations, for one size."""
    names = ('convolution', 'row_pairs', 'derived_gradient', 'products_gradient')
    loops = [f'{name}_looped' for name in names[2:]]
    rates = [f'{run[name]:.0f}' for name in names]
    looped = [f'{run[name]:.1f}' if name in run else '' for name in loops]
    size = f'{run["batch"]} x {run["side"]} px, {run["channels"]}'
    return [size, *rates, *looped, f'{run["difference"]:.0e}']


def target_rows(name: str) -> list[list[str]]:
    """One row for each program of a run, as it was compiled for devices that are not there."""
    cost = read_json(RAW / 'targets' / f'{name}.json')['cost']
    rows = []
    for row in cost['programs']:
        limit, expected = (f'{row[key]:,.0f}' for key in ('rows_per_s_limit', 'rows_per_s'))
        work = [f'{row["flops"] / 1e9:.3g}', f'{row["bytes"] / 1e6:.3g}', row['bound']]
        memory = [f'{row["device_bytes"] / 2**30:.2f}', f'{row["largest_batch"]:,}']
        rows.append([row['step'], f'{row["batch"]:,}', *work, *memory, limit, expected])
    return rows


def find_program(name: str, step: str) -> dict[str, Any]:
    """One program of a run that was compiled for a target."""
    programs = read_json(RAW / 'targets' / f'{name}.json')['cost']['programs']
    return next(row for row in programs if row['step'] == step)


def goal_rows() -> list[list[str]]:
    """What the compiled programs say, beside what is aimed for."""
    teacher = find_program('cifar10-variations-h200', 'teacher')
    candidates = find_program('cifar10-dataelixir-h200', 'candidates')
    purified = find_program('imagenette-h200', 'purified')
    seconds = [IMAGES / teacher[key] for key in ('rows_per_s_limit', 'rows_per_s')]
    calls = [CALLS * candidates[key] for key in ('rows_per_s_limit', 'rows_per_s')]
    images = [purified[key] for key in ('rows_per_s_limit', 'rows_per_s')]
    return [
        ['an epoch of ResNet-18 on CIFAR-10, s', '< 3', *(f'{value:.2f}' for value in seconds)],
        ['evaluations/s of the CIFAR-10 DDPM', '30,000', *(f'{value:,.0f}' for value in calls)],
        ['variations/s, 512 px, 50 guided steps', '4.3', *(f'{value:.1f}' for value in images)],
    ]


def growth_row(run: dict[str, Any]) -> list[str]:
    """One stage on so many files."""
    where = {'prepare': 'prepare', 'teacher': 'an epoch, images on the device'}[run['stage']]
    where = where if run['resident'] else 'an epoch, images read as needed'
    share = '' if run['stage'] == 'prepare' else f'{100 * run["wait_share"]:.1f} %'
    each = 1000 * run['processor_s'] / run['images']
    spent = [f'{run["processor_s"]:.1f} s', f'{each:.2f} ms', f'{run["peak_mib"]:,} MiB']
    return [where, f'{run["images"]:,}', *spent, share]


def quickstart_rows() -> list[list[str]]:
    """Processor time of the quickstart at two commits, and its ratio, by round."""
    runs = read_lines(RAW / 'quickstart.jsonl')
    groups: dict[tuple[str, int], list[float]] = {}  # the earlier commit goes first
    for run in runs:
        groups.setdefault((run['cache'], run['round']), []).append(run['processor_s'])
    rows = []
    for (cache, turn), (before, now) in sorted(groups.items()):
        times = [f'{before:.0f} s', f'{now:.0f} s', f'{now / before:.2f}']
        rows.append([cache, str(turn), *times])
    return rows


def level_row(run: dict[str, Any]) -> list[str]:
    """What compiling and one call of a program take at three levels of LLVM."""
    compiling, calling = run['compile_s'], run['call_s']
    times = [f'{compiling[level]:.1f} s' for level in ('3', '2', '1')]
    calls = [f'{calling[level] / calling["3"]:.2f}' for level in ('2', '1')]
    return [run['config'], run['program'], *times, f'{calling["3"]:.3g} s', *calls]


def device_row(row: dict[str, Any]) -> list[str]:
    """One program on so many fake devices; what is counted is of one of them."""
    said = ', '.join(f'{count} {kind}' for kind, count in row['collectives'].items()) or 'none'
    each = f'{row["flops"] * row["batch"] / row["devices"] / 1e9:.3g}'
    memory = f'{row["device_bytes"] / 2**20:.0f} MiB'
    return [row['step'], str(row['devices']), str(row['batch']), each, memory, said]


def main() -> None:
    """Prints all tables."""
    head = ['work', 'batch', 'threads', 'purify', 'PyTorch', 'by processor time', 'by wall time']
    runs = read_lines(RAW / 'side_by_side.jsonl')
    order = {name: place for place, name in enumerate(WORK)}
    runs.sort(key=lambda run: (order[run['workload']], run['threads']))
    print_table("PyTorch's time over purify's, float32, median (range) of 7", head, map(row, runs))
    head = ['batch, side, channels', 'XLA', 'pairs of rows', "XLA's gradient", 'products']
    head += ["XLA's gradient, in a loop", 'products, in a loop', 'largest difference']
    convolutions = read_lines(RAW / 'convolutions.jsonl')
    rows = map(convolution_row, convolutions)
    print_table('GFLOP/s of 3x3 convolutions and gradients of kernels, one core', head, rows)
    head = ['stage', 'files', 'processor time', 'each', 'most memory', 'waiting for data']
    growth = sorted(read_lines(RAW / 'growth_images.jsonl'), key=lambda run: run['stage'])
    print_table('Cost by number of images, 32 px', head, map(growth_row, growth))
    head = ['cache of programs', 'round', 'before', 'now', 'ratio']
    print_table('Processor time of the quickstart, on two cores', head, quickstart_rows())
    head = ['config', 'program', 'compile at level 3', '2', '1', 'a call at 3', 'at 2', 'at 1']
    levels = map(level_row, read_lines(RAW / 'compile_levels.jsonl'))
    print_table("Levels of LLVM; calls as a share of level 3's", head, levels, left=2)
    head = ['program', 'devices', 'batch', 'GFLOP of a device', 'memory of a device', 'collectives']
    devices = read_lines(RAW / 'growth_devices.jsonl')
    devices.sort(key=lambda row: row['step'])
    print_table("The quickstart's programs by number of devices", head, map(device_row, devices))
    head = ['on one H200, compiled and not run', 'goal', 'at the limit', 'at 45 % of it']
    print_table('Goals, and what the compiled programs say', head, goal_rows())
    head = ['program', 'batch', 'GFLOP', 'MB', 'bound by', 'GiB', 'largest batch']
    head += ['rows/s at the limit', 'rows/s at 45 %']
    for name, title in TARGETS.items():
        print_table(title, head, target_rows(name))


if __name__ == '__main__':
    main()
