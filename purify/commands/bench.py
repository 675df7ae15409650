"""The command `bench`: what variations cost on these devices, on random weights and images."""

import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from purify.commands.bench_settings import CLASS_NAMES, check_settings, make_rule, split_words
from purify.commands.call import Call
from purify.config.load import load_config
from purify.core import devices
from purify.core.errors import UserError
from purify.core.files import explain_os_errors
from purify.core.randomness import stream_rng
from purify.core.types import Settings, Tree
from purify.generative.open_prior import VARIATION_MODELS
from purify.models.files.shapes import random_pipeline
from purify.train.inference import compile_rows

Row = dict[str, Any]
FILE = 'bench.jsonl'
UNET_CALLS = 8  # in a row, so that starting one does not count


def bench(config: Settings, workdir: Path | None) -> None:
    """Prints one JSON line for each setting, and appends it to bench.jsonl in `workdir`, if given.

    A line holds what was set, and (see `_measure`) times, rates and bytes, or `error` where memory
    ran out.
    """
    mesh = devices.local_mesh()
    for row in measure_all(config, mesh):
        line = json.dumps(row)
        print(line, flush=True)
        if workdir is not None:
            with explain_os_errors(workdir / FILE):
                workdir.mkdir(parents=True, exist_ok=True)
                with open(workdir / FILE, 'a', encoding='utf-8') as file:
                    file.write(line + '\n')


def measure_all(config: Settings, mesh: Mesh) -> Iterator[Row]:
    """One row for each combination of the config's lists; the innermost vary fastest.

    Raises `UserError`, before anything is measured, for settings that no program could be made of.
    """
    check_settings(config)
    facts = {name: config[name] for name in ('kind', 'shapes', 'source_px', 'sampler')} | {
        'devices': mesh.size,
        'device_kind': mesh.devices.flat[0].device_kind,
        'jax': jax.__version__,
    }
    for dtype in split_words(config['dtypes']):
        yield from _measure_dtype(config, facts | {'dtype': dtype}, mesh)


def _measure_dtype(config: Settings, facts: Row, mesh: Mesh) -> Iterator[Row]:
    dtype = facts['dtype']
    pipeline = random_pipeline(config['kind'], config['shapes'], seed=0, dtype=dtype)
    prior = VARIATION_MODELS.bare(config['kind']).from_pipeline(pipeline, dtype=dtype)
    weights = devices.put_copy(prior.weights, mesh)
    facts = facts | {'parameters': sum(leaf.size for leaf in jax.tree.leaves(prior.weights))}
    points = itertools.product(config['sizes_px'], config['guidances'], config['batches'])
    for size_px, guidance, batch in points:
        unet: Row = {}  # steps and slices do not change it
        for steps, vae_slice in itertools.product(config['steps'], config['vae_slices']):
            sliced = dataclasses.replace(prior, vae_slice=vae_slice)
            row = facts | {'size_px': prior.output_size(size_px), 'batch': batch}
            row |= {'guidance': guidance, 'steps': steps, 'vae_slice': vae_slice}
            try:
                row |= _measure(sliced, weights, row, config['repeats'], mesh)
                unet = unet or _measure_unet(prior, weights, row, config['repeats'], mesh)
                row |= unet
            except jax.errors.JaxRuntimeError as error:
                if 'RESOURCE_EXHAUSTED' not in str(error):
                    raise
                row['error'] = str(error).splitlines()[0]
            yield row


def _measure(prior: Any, weights: Tree, row: Row, repeats: int, mesh: Mesh) -> Row:
    """The whole program of a batch, from 8-bit images to 8-bit images.

    compile_s, images_per_s of all devices (median, least and most of the repeats),
    tflops_per_image, mfu (share of the dense bf16 peak, whatever the dtype; None where it is not
    known), program_bytes (arguments, outputs and scratch of one device), peak_bytes (most ever in
    use on the first device; None where that was earlier, or is not told).
    """
    rule = make_rule(prior, row)
    size, count = row['source_px'], row['batch'] * mesh.size
    images = stream_rng(0, 'bench').integers(0, 256, (count, size, size, 3), np.uint8)
    numbers = np.arange(count, dtype=np.int32)
    rows = {'image': images, 'id': numbers, 'variation': 0 * numbers}
    rows['label'] = numbers % len(CLASS_NAMES)

    def place() -> Any:
        return jax.block_until_ready(jax.device_put(rows, devices.batched(mesh)))

    before = _peak_bytes(mesh)
    begun = time.perf_counter()
    constants = {'prior': weights}
    program, flops = compile_rows(rule, constants, place(), mesh)
    compile_s = time.perf_counter() - begun
    call = lambda placed: program(constants, placed)
    # The first warms up.
    seconds = [_seconds(call, place()) for _ in range(1 + repeats)][1:]
    middle, after = statistics.median(seconds), _peak_bytes(mesh)
    return {
        'compile_s': round(compile_s, 2),
        'images_per_s': round(count / middle, 4),
        'images_per_s_min': round(count / max(seconds), 4),
        'images_per_s_max': round(count / min(seconds), 4),
        'tflops_per_image': float(f'{flops / row["batch"] / 1e12:.4g}'),
        'mfu': _mfu(flops, middle),
        'program_bytes': _program_bytes(program),
        'peak_bytes': after if after != before else None,
    }


def _seconds(run: Callable[[Any], Any], rows: Tree) -> float:
    begun = time.perf_counter()
    jax.block_until_ready(run(rows))
    return time.perf_counter() - begun


def _measure_unet(prior: Any, weights: Tree, row: Row, repeats: int, mesh: Mesh) -> Row:
    """The UNet alone: unet_ms of a call, and unet_mfu; guidance doubles the images."""
    side, graph, own = row['size_px'] // prior.factor, prior.graphs[prior.unet], weights[prior.unet]
    tokens, width = _condition_shape(prior)
    count = row['batch'] * mesh.size * (1 if row['guidance'] == 1 else 2)

    def call(weights: Tree, rows: Tree) -> Any:  # gives back rows, so that calls follow each other
        network = nnx.merge(graph, weights['params'], weights['stats'])
        return rows | {'x': network(rows['x'], jnp.float32(500), rows['context'])}

    rng = stream_rng(0, 'bench unet')
    shapes = {'x': (count, side, side, prior.latent_shape[1]), 'context': (count, tokens, width)}
    rows = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    placed = jax.device_put(rows, devices.batched(mesh))
    program, flops = compile_rows(call, own, placed, mesh)
    seconds = []
    for _ in range(1 + repeats):
        begun = time.perf_counter()
        for _ in range(UNET_CALLS):
            placed = program(own, placed)
        jax.block_until_ready(placed)
        seconds.append(time.perf_counter() - begun)
    middle = statistics.median(seconds[1:]) / UNET_CALLS
    return {'unet_ms': round(1000 * middle, 3), 'unet_mfu': _mfu(flops, middle)}


def _mfu(flops: float, seconds: float) -> float | None:
    peak = devices.peak_flops()
    return round(flops / seconds / peak, 4) if peak else None


def _condition_shape(prior: Any) -> tuple[int, int]:
    """(tokens, width) of what the UNet is told."""
    if prior.tokenizer is not None:
        ids = prior.tokens([''])
        found = jax.eval_shape(
            lambda weights: prior.networks(weights)['text_encoder'](ids)[0], prior.weights
        )
    else:
        images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
        found = jax.eval_shape(
            lambda weights, x: prior.condition(
                prior.networks(weights)['image_encoder'], prior.preprocess(x)
            )[1],
            prior.weights,
            images,
        )
    return found.shape[1:]


def _program_bytes(program: Any) -> int | None:
    """What a program needs on one device, in bytes; None where the backend does not tell."""
    found = program.memory_analysis()
    if found is None:
        return None
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes + found.temp_size_in_bytes + outputs


def _peak_bytes(mesh: Mesh) -> int | None:
    """The most that was ever in use on the first device, where the backend tells."""
    return (mesh.devices.flat[0].memory_stats() or {}).get('peak_bytes_in_use')


def command(call: Call) -> int:
    """`bench variations`: what the config's settings cost here, one JSON line for each."""
    subject = next(iter(call.words), None)
    if subject != 'variations':
        raise UserError(
            f'`purify bench {subject or "..."}`: say what is to be measured. Choose from:'
            ' variations.'
        )
    try:
        config = load_config(call.args.config or 'bench', call.overrides)
    except ValueError as error:
        raise UserError(str(error)) from error
    devices.start()
    bench(config, call.args.workdir)
    return 0
