"""What LLVM's levels cost and give on a CPU: compiling and running the programs of some configs.

    taskset -c 0 python tests/tools/compile_levels.py > compile_levels.jsonl    # four minutes

A line of JSON for each program: processor seconds to compile it at level 3, the usual one, at 2 and
at 1, and those of one call. Levels take turns, in both orders, and the least counts. Programs are
those of a run but for what a run adds around them: donated buffers, and the mapping over devices.
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

ORDERS = ((3, 2, 1), (1, 2, 3))
CALLS = 4  # of each level, in each order
ROWS = 64  # of the programs that do not train
QUICK = ('teacher', 'purified', 'student', 'evaluate: teacher')
# config, its flags, programs
CONFIGS = [
    ('quickstart', [], QUICK),
    ('cifar10', ['--config.teacher.batch=32'], ('teacher',)),
]


def trace(program):
    """The traced program, and arguments for it."""
    rows = program.rows
    if not program.trains:
        rows = jax.tree.map(lambda x: jax.ShapeDtypeStruct((ROWS, *x.shape[1:]), x.dtype), rows)
    array = lambda x: jnp.ones(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x
    args = jax.tree.map(array, (program.whole, rows))
    return jax.jit(program.call).trace(program.whole, rows), args


def clock(spent, level, do):
    """Notes the processor seconds of `do()` if they are the least so far; returns its answer."""
    begun = time.process_time()
    answer = do()
    seconds = round(time.process_time() - begun, 4)
    spent[level] = min(seconds, spent.get(level, seconds))
    return answer


def measure(program):
    """Processor seconds of compiling and of one call, by level."""
    traced, args = trace(program)
    compiling, calling = {}, {}
    for order in ORDERS:
        ready = {}
        for level in order:
            jax.clear_caches()  # or the second order would find what the first one made
            traced.lower()
            make = lambda level=level: compile_traced(
                traced, {'xla_backend_optimization_level': level}
            )
            ready[level] = clock(compiling, level, make)
        for _ in range(CALLS):
            for level, call in ready.items():
                clock(calling, level, lambda call=call: jax.block_until_ready(call(*args)))
    return {'compile_s': compiling, 'call_s': calling}


def main():
    devices.start()
    jax.config.update('jax_enable_compilation_cache', False)
    jax.jit(jnp.sin).lower(1.0).compile()  # LLVM starts
    for name, flags, wanted in CONFIGS:
        for program in check(load_config(name, flags)).programs:
            if program.step in wanted:
                facts = {'date': str(datetime.date.today()), 'config': name, 'flags': flags}
                print(json.dumps(facts | {'program': program.step} | measure(program)), flush=True)


if __name__ == '__main__':
    main()
