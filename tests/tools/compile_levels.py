"""What LLVM's levels cost and give on a CPU: compiling and running the programs of some configs.

    taskset -c 0 python tests/tools/compile_levels.py > compile_levels.jsonl    # ten minutes

A line of JSON for each program: processor seconds to compile it at XLA's usual level, 3, and at 2,
1 and 0, and those of one call, the least of `REPEATS` calls that take turns. `compile_counted`
takes level 2.
"""

import datetime
import json
import time

import jax
import jax.numpy as jnp

from purify.commands.check import check
from purify.config.load import load_config
from purify.core import devices
from purify.train.flops import compile_traced

LEVELS, REPEATS = (3, 2, 1, 0), 8
ROWS = 64  # of the programs that do not train
QUICK = ('teacher', 'purified', 'student', 'evaluate: teacher')
# config, its flags, programs
CONFIGS = [
    ('quickstart', [], QUICK),
    ('cifar10', ['--config.teacher.batch=32'], ('teacher',)),
    ('cifar10:prior=train', ['--config.prior.batch=8'], ('prior',)),
]


def shapes(program):
    """(what is held, the rows of a batch) as shapes."""
    if program.trains:
        return program.whole, program.rows
    many = lambda x: jax.ShapeDtypeStruct((ROWS, *x.shape[1:]), x.dtype)
    return program.whole, jax.tree.map(many, program.rows)


def measure(program):
    """Processor seconds of compiling and of one call, by level."""
    held, rows = shapes(program)
    traced = jax.jit(program.call).trace(held, rows)
    array = lambda x: jnp.ones(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x
    args = jax.tree.map(array, (held, rows))
    compiled, found = {}, {'compile': {}, 'call': {}}
    for level in LEVELS:
        begun = time.process_time()
        compiled[level] = compile_traced(traced, {'xla_backend_optimization_level': level})
        found['compile'][level] = round(time.process_time() - begun, 3)
    for _ in range(REPEATS):
        for level, program in compiled.items():
            begun = time.process_time()
            jax.block_until_ready(program(*args))
            spent = time.process_time() - begun
            found['call'][level] = round(min(spent, found['call'].get(level, spent)), 5)
    return found


def main():
    devices.start()
    for name, flags, wanted in CONFIGS:
        found = check(load_config(name, flags))
        for program in found.programs:
            if program.step in wanted:
                facts = {'date': str(datetime.date.today()), 'config': name, 'flags': flags}
                print(json.dumps(facts | {'program': program.step} | measure(program)), flush=True)


if __name__ == '__main__':
    main()
