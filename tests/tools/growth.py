"""What a run costs with more images, and what its programs are on more devices. Lines of JSON.

    python tests/tools/growth.py images --out images.jsonl      # 1k, 10k and 100k files of 32 px
    python tests/tools/growth.py devices --out devices.jsonl    # 1, 2, 4 and 8 fake devices

`images` writes that many PNG files of noise in ten classes, and runs two stages of the quickstart
on them, each in a process of its own: `prepare` (which poisons and stores them), and one epoch of a
small classifier, once with the images on the device and once read as they are needed. Measured are
processor time and the most memory of the process (resident, in MiB).

`devices` compiles the programs of the quickstart for fake CPU devices and counts, of one device,
FLOPs, memory and exchanges with other devices.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
CLASSES, SIZE_PX, TEST = 10, 32, 1000
# A network that costs little, for one epoch.
SMALL = (
    '--config.teacher.epochs=1',
    '--config.teacher.network.width=4',
    '--config.teacher.network.stages=(1,)',
    '--config.shard_size=1000',
)
RUN = """
import resource, sys
from purify.cli import main
code = main(sys.argv[1:])
spent = resource.getrusage(resource.RUSAGE_SELF)
print('spent', spent.ru_utime + spent.ru_stime, spent.ru_maxrss / 1024)
sys.exit(code)
"""


def main() -> None:
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('what', choices=('images', 'devices'))
    parser.add_argument('--counts', default='', help='numbers of images or devices')
    parser.add_argument('--out', type=Path, required=True, help='file to append lines to')
    args = parser.parse_args()
    usual = {'images': '1000,10000,100000', 'devices': '1,2,4,8'}[args.what]
    for count in map(int, (args.counts or usual).split(',')):
        for row in (of_images if args.what == 'images' else of_devices)(count):
            line = json.dumps(row)
            print(line, flush=True)
            with args.out.open('a', encoding='utf-8') as file:
                file.write(line + '\n')


def of_images(count: int):
    """Rows of the stages on so many files."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_files(folder / 'data' / 'train', count, 0)
        write_files(folder / 'data' / 'test', TEST, 1)
        spec = f'quickstart:source=imagefolder:{folder / "data"},defense=none'
        own = [*SMALL, f'--config.source.size_px={SIZE_PX}']
        for stage, resident_mb in (('prepare', 2048), ('teacher', 2048), ('teacher', 0)):
            work = folder / f'{stage}-{resident_mb}'
            line = ['run', '--quiet', '--config', spec, '--workdir', str(work), *own]
            line += ['--store', str(folder / f'store-{resident_mb}')]
            line += ['--stages', stage, f'--config.run.resident_mb={resident_mb}']
            if not resident_mb:  # what comes before is not measured again
                shutil.copytree(folder / 'store-2048', folder / 'store-0')
                for old in (folder / 'store-0').glob('teacher*'):
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
            seconds, mebibytes = measured(line)
            done = next((folder / f'store-{resident_mb}').glob(f'{stage}-*/DONE'))
            cost = json.loads(done.read_text())['cost']
            row = {'images': count, 'stage': stage, 'resident': bool(resident_mb)}
            row |= {'processor_s': round(seconds, 2), 'peak_mib': round(mebibytes)}
            yield row | {'wait_share': cost.get('wait_share')}


def write_files(folder: Path, count: int, seed: int) -> None:
    """PNG files of noise in class folders."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    for label in range(CLASSES):
        (folder / str(label)).mkdir(parents=True)
    for number in range(count):
        pixels = rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), np.uint8)
        Image.fromarray(pixels).save(folder / str(number % CLASSES) / f'{number}.png')


def measured(line: list[str]) -> tuple[float, float]:
    """Runs a command of purify in a process; its processor time and most memory in MiB."""
    done = subprocess.run([sys.executable, '-c', RUN, *line], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    said = next(text for text in done.stdout.splitlines() if text.startswith('spent '))
    return float(said.split()[1]), float(said.split()[2])


def of_devices(count: int):
    """Rows of the quickstart's programs on so many devices."""
    os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
    sys.path.insert(0, str(ROOT))
    import jax
    from jax.sharding import Mesh

    from purify.commands import target
    from purify.commands.check import check
    from purify.config.load import load_config
    from purify.core.targets import Target

    config = load_config('quickstart', [])
    target.describe_devices = lambda name, count: Mesh(np.array(jax.devices()[:count]), ('data',))
    Target.options = {}  # pyright: ignore[reportAttributeAccessIssue]
    cost = target.compile_for('h200', check(config), config['run'], count)
    for row in cost['programs']:
        kept = ('step', 'batch', 'flops', 'device_bytes', 'collectives', 'host_transfers')
        yield {'devices': count} | {name: row[name] for name in kept}


if __name__ == '__main__':
    main()
