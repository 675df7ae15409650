"""Runs every system small in two checkouts of this project and says what differs: for changes that
must change nothing.

    git worktree add ../before main
    python tests/tools/same_results.py ../before . --workdir ../same [--only quickstart]

Both run in this Python's environment, on one CPU device. Compared byte for byte: results.json but
for times and fingerprints, the records of datasets, the weights of every network, verdicts, and
every other file that a stage leaves. Files that one checkout does not write, or writes under
another name, are counted: a method may do with fewer steps. Finished runs are not run again: delete
their folders to do so.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

SIZES = (
    '--config.source.train_size=120',
    '--config.source.test_size=60',
    '--config.teacher.epochs=3',
    '--config.teacher.batch=16',
    '--config.shard_size=20',
    '--config.run.save_every=5',
    '--config.run.log_every=5',
    '--config.run.inference_batch=20',
    '--config.run.batch_per_device=20',
    '--config.run.report_images=2',
)
STUDENT = ('--config.student.epochs=3', '--config.student.batch=16')
VARY = (*STUDENT, '--config.defense.vary.steps=4')
FIT = ('--config.trigger.steps=20',)
GENERATOR = (
    '--config.source.size_px=8',
    '--config.attack.size_px=2',
    '--config.teacher.epochs=1',
    '--config.defense.generator.network.sample_size=8',
    '--config.defense.generator.network.block_out_channels=(8,16)',
    '--config.defense.generator.steps=40',
    '--config.run.save_every=4',
    '--config.run.report_images=2',
    '--config.shard_size=10',
)
RUNS = {  # name -> config and words, flags
    'quickstart': ('quickstart.py', (*SIZES, *VARY)),
    'dataelixir': (
        'dataelixir.py',
        (
            *SIZES,
            '--config.teacher.epochs=20',
            '--config.student.epochs=2',
            '--config.student.batch=16',
            '--config.defense.rounds=2',
            '--config.defense.steps=4',
            '--config.defense.kept=2',
            '--config.defense.targets.score=0.0',
            '--config.defense.targets.deviations=0.0',
            '--config.defense.targets.level=0.9',
        ),
    ),
    'relabel': (
        'relabel.py',
        (
            '--config.source.size_px=8',
            '--config.attack.size_px=2',
            '--config.teacher.epochs=1',
            '--config.student.epochs=1',
            '--config.defense.encoder.epochs=24',
            '--config.defense.fit.members=3',
            '--config.run.report_images=2',
        ),
    ),
    'generation': (
        'castle_walls.py',
        (
            *GENERATOR,
            '--config.student.epochs=1',
            '--config.dissection.labeller.epochs=1',
            '--config.dissection.detector.epochs=1',
            '--config.defense.sampling.steps=4',
            '--config.defense.images=90',
            '--config.defense.probe.images=30',
            '--config.defense.scores.cognitive_distillation.steps=2',
            '--config.defense.scores.strip.draws=4',
            '--config.defense.scores.fct.times=1',
        ),
    ),
    'diffusion_classifier': (
        'castle_walls.py:defense=diffusion_classifier',
        (*GENERATOR, '--config.defense.draws=2', '--config.defense.images=12'),
    ),
    'nad': ('quickstart.py:defense=nad', (*SIZES, '--config.student.epochs=2')),
    'strip': ('quickstart.py:defense=strip', (*SIZES, *STUDENT)),
    'input_aware': ('quickstart.py:attack=input_aware', (*SIZES, *VARY, *FIT)),
    'asd': (
        'quickstart.py:defense=asd',
        (
            *SIZES,
            '--config.trusted.per_class=2',
            '--config.defense.rounds=(2,1,1)',
            '--config.defense.add=1',
            '--config.student.steps=24',
            '--config.student.batch=16',
        ),
    ),
    'lira': ('quickstart.py:attack=lira,defense=none', (*SIZES, *FIT)),
    'label_consistent': (
        'quickstart.py:attack=label_consistent,defense=spectral',
        (*SIZES, *STUDENT),
    ),
    'two_patches': (
        'dataelixir.py:attack=two_patches,defense=activation_clustering',
        (*SIZES, *STUDENT),
    ),
    'abl': ('quickstart.py:defense=abl,attack=blended', (*SIZES,)),
    'augmentations': ('quickstart.py:defense=augmentations,attack=warp', (*SIZES, *STUDENT)),
    'fct': ('quickstart.py:defense=fct,attack=sample_specific', (*SIZES, *STUDENT, *FIT)),
    'relabel_teacher': (
        'relabel.py:features=teacher,attack=dct',
        (
            *SIZES,
            '--config.source.train_size=400',
            '--config.defense.fit.members=2',
            '--config.student.epochs=1',
        ),
    ),
}
# Tables, which steps may hand on in other forms; the last ones of a method are its verdicts.
IN_BETWEEN = re.compile(
    r'(?!verdicts/(findings|verdicts)\.).*(/rows-\S+|/findings\.\w+|/verdicts\.csv|\.npz)'
)
OF_THE_RUN = ('cost', 'environment', 'fingerprints', 'stages', 'config', 'overrides', 'command')
OF_THE_RUN += ('date', 'reused', 'versions')


def run(code: Path, name: str, workdir: Path) -> dict[str, str]:
    """Runs one config with the program at `code`, unless it is done; -> what is compared."""
    spec, flags = RUNS[name]
    if not (workdir / 'results.json').is_file():
        environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(code)}
        line = [
            sys.executable,
            '-m',
            'purify',
            'run',
            '--config',
            f'configs/{spec}',
            '--workdir',
            str(workdir),
            *flags,
        ]
        subprocess.run(line, cwd=code, env=environment, check=True)
    return describe(workdir)


def describe(workdir: Path) -> dict[str, str]:
    """Digests of what a finished run left, by stage and place, and its results."""
    found = {}
    for done in sorted(workdir.glob('stages/*/DONE')):
        stage = done.parent.name.rpartition('-')[0]
        for path in sorted(done.parent.rglob('*')):
            own = {'checkpoints', 'weights'} & set(path.parts[len(done.parent.parts) :])
            if (
                path.is_file()
                and not own
                and not path.name.startswith(('DONE', 'cost', 'metrics', '.'))
            ):
                found[f'{stage}/{path.relative_to(done.parent)}'] = digest_file(path)
        for place in sorted(done.parent.glob('weights/step_*')):
            found[f'{stage}/weights'] = digest_weights(place)
    results = json.loads((workdir / 'results.json').read_text(encoding='utf-8'))
    for key in sorted(set(results) - set(OF_THE_RUN)):
        found[f'results.json/{key}'] = json.dumps(results[key], sort_keys=True)
    return found


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes; of arrays in whatever order they are stored, and of a manifest
    without their file's hash.
    """
    content = path.read_bytes()
    if path.suffix == '.npz':
        with np.load(path, allow_pickle=False) as arrays:
            content = b''.join(
                f'{name} {arrays[name].dtype}'.encode() + arrays[name].tobytes()
                for name in sorted(arrays)
            )
    elif path.name == 'manifest.json':
        content = json.dumps({**json.loads(content), 'sha256': ''}, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def digest_weights(checkpoint: Path) -> str:
    """SHA-256 over all arrays of an orbax checkpoint, whose own files bear dates."""
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.restore(checkpoint / 'default')
    whole = hashlib.sha256()
    for path, leaf in sorted(
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ):
        whole.update(
            f'{path} {np.asarray(leaf).dtype} {np.shape(leaf)}'.encode()
            + np.asarray(leaf).tobytes()
        )
    return whole.hexdigest()[:16]


def main() -> int:
    """Prints what differs between two checkouts; 1 if anything does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('before', type=Path)
    parser.add_argument('after', type=Path)
    parser.add_argument('--workdir', type=Path, required=True)
    parser.add_argument('--only', nargs='*', choices=list(RUNS), default=list(RUNS))
    args = parser.parse_args()
    wrong = 0
    for name in args.only:
        one = run(args.before.absolute(), name, args.workdir.absolute() / 'before' / name)
        other = run(args.after.absolute(), name, args.workdir.absolute() / 'after' / name)
        both = sorted({*one} & {*other})
        own = [key for key in {*one} ^ {*other} if not IN_BETWEEN.fullmatch(key)]
        print(
            f'{name}: {len(both)} files and results in both, {len(one) - len(both)} before and'
            f' {len(other) - len(both)} after alone'
        )
        for key in [key for key in both if one[key] != other[key]] + sorted(own):
            wrong += not IN_BETWEEN.fullmatch(key)
            print(
                f'  {key}: {one.get(key, "not there")[:200]} -> {other.get(key, "not there")[:200]}'
            )
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
