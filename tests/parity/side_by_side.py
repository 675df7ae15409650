"""What purify and PyTorch cost, turn by turn in one process: whole chains of diffusion models and
training steps.

    pip install -e .[parity]
    python tests/parity/side_by_side.py --out speed.jsonl            # all, on one thread and on two
    python tests/parity/side_by_side.py --workloads variations --shapes sd1 --dtype bfloat16 \
        --compile --batch 8 --steps 50                               # a GPU, 10 GB of disk

Workloads (`--workloads`, see tests/parity/pairs.py): variations (an image-variation pipeline: CLIP,
the UNet with guidance, the VAE), edit (a DDPM noises images and denoises them), classifier (a
training step of ResNet-18 at 32 px), contrast (one of SimCLR), denoise (one of a DDPM).

Each workload runs in a process of its own for each number of threads, which is the number of cores
that this process may use. Weights are random, for cost does not depend on them, and equal on both
sides where answers are compared. Both are warmed up by calls that do not count, then they take
turns, the first to go changing with every round. Processor time is that of all threads. Prints one
line of JSON for each; `--out` appends them to a file.

float32 means float32: TF32 is off on both sides. PyTorch gets channels-last networks, on a GPU
cuDNN's search for the fastest kernels; `--compile` adds torch.compile in its mode
'max-autotune-no-cudagraphs'.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PAUSE = 0.5  # seconds; OpenMP's threads wait for more work by spinning, at first
WARM = 4  # calls of each side before those that count
WORKLOADS = {'variations': 4, 'edit': 64, 'classifier': 64, 'contrast': 32, 'denoise': 16}  # batch


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--workloads', default=','.join(WORKLOADS), help='of the list above')
    parser.add_argument('--threads', default='1,2', help='numbers of CPU cores')
    parser.add_argument('--repeats', type=int, default=7, help='timed calls of each side')
    parser.add_argument('--out', type=Path, help='file that the lines are appended to')
    parser.add_argument('--batch', type=int, default=0, help="images; 0: the workload's own")
    parser.add_argument('--dtype', default='float32', choices=('float32', 'bfloat16', 'float16'))
    parser.add_argument('--compile', action='store_true', help='torch.compile the networks')
    parser.add_argument('--steps', type=int, default=10, help='of chains')
    parser.add_argument('--kind', default='sd_variation', choices=('sd_variation', 'versatile'))
    parser.add_argument(
        '--shapes',
        default='small',
        help="of a pipeline's networks: 'tiny', 'small' (a quarter of SD's width), 'sd1', ...",
    )
    parser.add_argument('--guidance', type=float, default=7.5)
    parser.add_argument(
        '--channels', default='64,128,128', help="of a DDPM's levels; '128,256,256,256' is CIFAR's"
    )
    parser.add_argument('--width', type=int, default=64, help='of the ResNet-18')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.workloads = args.workloads.split(',')
    if unknown := set(args.workloads) - set(WORKLOADS):
        parser.error(f'unknown workloads {sorted(unknown)}: choose from {", ".join(WORKLOADS)}')
    args.channels = tuple(int(width) for width in args.channels.split(','))
    return args


def main() -> None:
    args = arguments()
    if args.child:
        print(json.dumps(run_here(args)))
        return
    cores = sorted(os.sched_getaffinity(0))
    for workload in args.workloads:
        for threads in (int(number) for number in args.threads.split(',')):
            if threads > len(cores):
                sys.exit(f'--threads={threads}: there are {len(cores)} cores.')
            line = run_apart(workload, cores[:threads])
            print(line, flush=True)
            if args.out:
                with args.out.open('a', encoding='utf-8') as file:
                    file.write(line + '\n')


def run_apart(workload: str, cores: list[int]) -> str:
    """Runs this program once more for one workload, on these cores alone."""
    given = [word for word in sys.argv[1:] if word != '--child']
    command = [sys.executable, __file__, *given, '--workloads', workload, '--child']
    try:
        os.sched_setaffinity(0, cores)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    finally:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return done.stdout.strip().splitlines()[-1]


def run_here(args: argparse.Namespace) -> dict[str, Any]:
    """Measures one workload in this process, with a thread for each core it may use."""
    from purify.core import devices

    devices.start()  # as a run does

    import jax
    import pairs
    import torch

    threads, workload = len(os.sched_getaffinity(0)), args.workloads[0]
    torch.set_num_threads(threads)
    args.batch = args.batch or WORKLOADS[workload]
    exact = 'highest' if args.dtype == 'float32' else None
    jax.config.update('jax_default_matmul_precision', exact)
    pair = pairs.PAIRS[workload](args)
    versions = {'jax': jax.__version__, 'torch': torch.__version__}
    where = {'device': find_device(), 'threads': threads, 'python': platform.python_version()}
    where['date'] = datetime.datetime.now(datetime.UTC).date().isoformat()
    facts = {'workload': workload, 'batch': args.batch, 'dtype': args.dtype, **pair.facts}
    return facts | where | versions | measure(pair, args.repeats)


def find_device() -> str:
    """The GPU's name, or 'cpu' and its model; both sides must have the same."""
    import jax
    import torch

    theirs, ours = torch.cuda.is_available(), jax.default_backend() == 'gpu'
    if theirs != ours:
        sys.exit(
            f'torch {"has" if theirs else "lacks"} a GPU and jax runs on {jax.default_backend()}:'
            ' hide it from both or none.'
        )
    if ours:
        return torch.cuda.get_device_name()
    lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
    model = next((line.partition(': ')[2] for line in lines if line.startswith('model name')), '?')
    wide = next((line for line in lines if line.startswith('flags')), '').split()
    return f'cpu, {model}, {"AVX-512" if "avx512f" in wide else "AVX2"}'


def measure(pair: Any, repeats: int) -> dict[str, Any]:
    """Processor and wall seconds of each side, and the medians of their ratios by round."""
    runs = {'purify': pair.ours, 'pytorch': pair.theirs}
    first = {name: timed(run)[1] for name, run in runs.items()}
    for run in runs.values():
        for _ in range(WARM):
            run()
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for round_ in range(repeats):
        for name in list(runs)[:: 1 if round_ % 2 else -1]:
            spent[name].append(timed(runs[name]))
    found: dict[str, Any] = {}
    for name, times in spent.items():
        processor, wall = zip(*times, strict=True)
        found[name] = {'processor_s': processor, 'wall_s': wall, 'first_call_s': first[name]}
    rounds = list(zip(spent['purify'], spent['pytorch'], strict=True))
    for place, kind in enumerate(('processor', 'wall')):
        ratios = [theirs[place] / ours[place] for ours, theirs in rounds]
        found[f'{kind}_ratio'] = statistics.median(ratios)
        found[f'{kind}_ratios'] = [min(ratios), max(ratios)]
    if pair.compare is not None:
        found['largest_difference'] = pair.compare()
    return found


def timed(run: Any) -> tuple[float, float]:
    """Processor and wall seconds of a call; the threads of the other side are asleep by then."""
    time.sleep(PAUSE)
    processor, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - processor, time.perf_counter() - wall


if __name__ == '__main__':
    main()
