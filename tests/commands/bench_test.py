import functools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from support.meshes import mesh_of
from support.tiny import ROOT

from purify import cli
from purify.commands import bench
from purify.commands.bench_settings import IMAGE_TO_IMAGE
from purify.config.load import load_config
from purify.config.resolve import leaves
from purify.core.errors import UserError
from purify.models.files.shapes import SHAPES, abstract_pipeline
from purify.train.flops import count_flops

SPEC = f'{ROOT}/configs/bench.py:shapes=tiny'
# 'tiny' with one level and one layer of everything, so that it is traced and compiled quickly
LEAST = {
    'unet': {
        'block_out_channels': [16],
        'down_block_types': ['CrossAttnDownBlock2D'],
        'up_block_types': ['CrossAttnUpBlock2D'],
    },
    'vae': {'block_out_channels': [8, 8]},
    'image_encoder': {'num_hidden_layers': 1},
    'text_encoder': {'num_hidden_layers': 1},
}
SMALL = ['--config.source_px=16', '--config.repeats=2', '--config.dtypes=float32']
SMALL += ['--config.batches=2', '--config.guidances=2.0']


def config_of(*flags, spec=SPEC):
    given = {flag.partition('=')[0] for flag in flags}  # of a list, a second flag would be appended
    return load_config(
        spec, [*(flag for flag in SMALL if flag.partition('=')[0] not in given), *flags]
    )


class Program:
    """Gives back its rows."""

    def __call__(self, weights, rows):
        return rows

    def memory_analysis(self):
        return None


@pytest.fixture(autouse=True)
def least_shapes(monkeypatch):
    """Smaller networks under the name of 'tiny'."""
    monkeypatch.setitem(
        SHAPES, 'tiny', {name: part | LEAST.get(name, {}) for name, part in SHAPES['tiny'].items()}
    )


@pytest.fixture
def asked(monkeypatch):
    """Programs are neither compiled nor run; what is asked for is written down."""
    asked = []

    def compile_rows(apply, weights, rows, mesh):
        own = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((len(x) // mesh.size, *x.shape[1:]), x.dtype), rows
        )
        asked.append(SimpleNamespace(apply=apply, weights=weights, rows=own))
        return Program(), 6e12

    monkeypatch.setattr(bench, 'compile_rows', compile_rows)
    return asked


@functools.cache
def networks():
    parts = abstract_pipeline('sd_variation', 'tiny').parts
    return {name: nnx.split(parts[name]) for name in ('unet', 'vae', 'image_encoder')}


def unet_flops(batch, tokens):
    graph, state = networks()['unet']
    call = jax.jit(lambda state, *args: nnx.merge(graph, state)(*args))
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in ((batch, 8, 8, 4), (), (batch, tokens, 32))
    ]
    return count_flops(call.trace(state, *shapes).jaxpr)


@pytest.mark.long
def test_a_line_holds_what_was_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench.devices, 'local_mesh', lambda: mesh_of(2))
    monkeypatch.setattr(bench.devices, 'peak_flops', lambda: 1e12)
    flags = [*SMALL, '--config.steps=1']
    assert (
        cli.main(
            ['bench', 'variations', '--config', SPEC, *flags, '--workdir', str(tmp_path / 'new')]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert (tmp_path / 'new' / 'bench.jsonl').read_text() == printed
    row = json.loads(printed)
    told = {
        name: row[name]
        for name in ('kind', 'shapes', 'size_px', 'batch', 'devices', 'dtype', 'steps', 'guidance')
    }
    wanted = {'kind': 'sd_variation', 'shapes': 'tiny', 'size_px': 16, 'batch': 2, 'devices': 2}
    wanted |= {'dtype': 'float32', 'steps': 1, 'guidance': 2.0}
    assert told == wanted
    assert (
        row['parameters']
        == sum(array.size for _, state in networks().values() for array in jax.tree.leaves(state))
        > 0
    )
    assert 0 < row['images_per_s_min'] <= row['images_per_s'] <= row['images_per_s_max']
    assert row['compile_s'] > 0
    # of the peak of two devices, from the line's own rate
    assert row['mfu'] == pytest.approx(row['tflops_per_image'] * row['images_per_s'] / 2, abs=2e-4)
    assert row['program_bytes'] > 4 * row['parameters']
    found = row['unet_mfu']
    assert found == pytest.approx(unet_flops(4, 1) / (row['unet_ms'] / 1000) / 1e12, abs=2e-4)
    assert 'error' not in row


@pytest.mark.parametrize(
    ('kind', 'tokens'),
    [
        ('sd_variation', 1),
        pytest.param('versatile', 17, marks=pytest.mark.long),
        pytest.param('sd_img2img', 16, marks=pytest.mark.long),
    ],
)
def test_flops_grow_by_one_call_of_the_unet_with_every_step(asked, kind, tokens):
    config = config_of('--config.steps=4,8', spec=f'{SPEC},kind={kind}')
    list(bench.measure_all(config, mesh_of(1)))
    # the UNet alone, once for both
    assert [program.rows.keys() for program in asked[1:2]] == [{'x', 'context'}]
    four, unet, eight = (
        count_flops(jax.jit(a.apply).trace(a.weights, a.rows).jaxpr) for a in asked
    )
    assert unet == unet_flops(4, tokens) > 0  # two images, guided
    calls = 3 if kind == 'sd_img2img' else 4  # of which the strength takes three quarters
    assert eight - four == calls * unet


@pytest.mark.long
def test_every_combination_is_measured_on_all_devices(asked):
    flags = [
        '--config.batches=1,3',
        '--config.guidances=1.0,2.0',
        '--config.dtypes=float32,bfloat16',
    ]
    flags += ['--config.vae_slices=0,1', '--config.sizes_px=0,24', '--config.steps=1']
    rows = list(bench.measure_all(config_of(*flags), mesh_of(2)))
    settings = [
        tuple(row[name] for name in ('dtype', 'size_px', 'guidance', 'batch', 'vae_slice'))
        for row in rows
    ]
    assert settings == [
        (dtype, size, guidance, batch, piece)
        for dtype in ('float32', 'bfloat16')
        for size in (16, 24)
        for guidance in (1.0, 2.0)
        for batch in (1, 3)
        for piece in (0, 1)
    ]
    unets = [program.rows['x'].shape[:2] for program in asked if 'x' in program.rows]
    assert unets == [(1, 8), (3, 8), (2, 8), (6, 8), (1, 12), (3, 12), (2, 12), (6, 12)] * 2
    kernels = [
        program.weights['params']['conv_in']['kernel'] for program in asked if 'x' in program.rows
    ]
    assert [kernel.dtype for kernel in kernels] == [jnp.float32] * 8 + [jnp.bfloat16] * 8
    wanted = {(1, 6.0, None), (3, 2.0, None)}
    assert {(row['batch'], row['tflops_per_image'], row['mfu']) for row in rows} == wanted


def test_a_setting_that_does_not_fit_says_so_and_the_next_is_measured(asked, monkeypatch):
    working = bench.compile_rows

    def compile_rows(apply, weights, rows, mesh):
        if len(rows.get('image', ())) > 4:
            raise jax.errors.JaxRuntimeError(
                'RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore'
            )
        return working(apply, weights, rows, mesh)

    monkeypatch.setattr(bench, 'compile_rows', compile_rows)
    rows = list(
        bench.measure_all(config_of('--config.batches=8,4', '--config.steps=1'), mesh_of(1))
    )
    assert rows[0]['error'] == 'RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.'
    assert 'images_per_s' not in rows[0]
    assert 'error' not in rows[1]
    assert rows[1]['images_per_s'] > 0


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    def compile_rows(*_):
        raise jax.errors.JaxRuntimeError('INTERNAL: broken')

    monkeypatch.setattr(bench, 'compile_rows', compile_rows)
    with pytest.raises(jax.errors.JaxRuntimeError, match='broken'):
        list(bench.measure_all(config_of(), mesh_of(1)))


class Watched(dict):
    """Remembers what was asked of it."""

    def __init__(self, values):
        super().__init__(values)
        self.seen = set()

    def __getitem__(self, name):
        self.seen.add(name)
        return super().__getitem__(name)


def test_every_leaf_is_read(asked):
    config = Watched(config_of('--config.steps=1'))
    list(bench.measure_all(config, mesh_of(1)))
    assert config.seen == set(leaves(dict(config))) - {'name'}


@pytest.fixture
def nothing_runs(monkeypatch):
    """Not even weights are drawn."""

    def fail(*_, **__):
        raise AssertionError('a mistake came to light too late')

    monkeypatch.setattr(bench, 'random_pipeline', fail)
    monkeypatch.setattr(bench, 'compile_rows', fail)


def refused(config, fragments):
    with pytest.raises(UserError) as error:
        list(bench.measure_all(config, mesh_of(1)))
    assert all(fragment in str(error.value) for fragment in fragments), error.value


@pytest.mark.parametrize(
    ('flag', 'fragments'),
    [
        ('batches=8,0', ['--config.batches=[8, 0]', 'whole numbers, each 1 or more']),
        ('batches=', ["--config.batches=['']", 'one or more']),
        ('batches=[]', ['--config.batches=[]', 'one or more']),
        ('batches=4,x', ["--config.batches=['4,x']", 'whole numbers']),
        ('steps=0', ['--config.steps=[0]', '1 or more']),
        ('steps=2.5', ['--config.steps=[2.5]', 'whole numbers']),
        ('steps=True', ['--config.steps=[True]', 'whole numbers']),
        ('steps=2,1001', ['steps=1001', 'between 1 and the 1000 timesteps']),
        ('vae_slices=-1', ['--config.vae_slices=[-1]', '0 or more']),
        ('repeats=0', ['--config.repeats=0', '1 or more']),
        ('source_px=0', ['--config.source_px=0', '1 or more']),
        ('guidances=nan', ["--config.guidances=['nan']", 'finite numbers']),
        ('guidances=1e400', ['--config.guidances=[inf]', 'finite numbers']),
        ('guidances=', ["--config.guidances=['']", 'one or more finite numbers']),
        ('dtypes=float32,float8', ['float8', 'float32, float16, bfloat16']),
        ('dtypes=', ["--config.dtypes=['']", 'one or more of float32']),
        ('dtypes=32', ['--config.dtypes=[32]', 'one or more of float32']),
        ('sizes_px=16,15', ['size_px=15', 'multiple of 2']),
        ('sampler=heun', ["unknown sampler 'heun'", 'dpmpp_2m']),
    ],
)
def test_settings_that_make_no_sense(flag, fragments, nothing_runs):
    refused(config_of(f'--config.{flag}'), fragments)


def test_a_chain_without_a_step_is_refused(nothing_runs):
    refused(
        config_of('--config.steps=4,1', spec=f'{SPEC},kind=sd_img2img'),
        ['--config.steps=[4, 1]', 'each 2 or more'],
    )
    assert int(2 * IMAGE_TO_IMAGE['strength']) == 1


@pytest.mark.parametrize(
    ('change', 'fragments'),
    [
        ({'kind': 'pixel'}, ["unknown kind 'pixel'", 'sd_variation, versatile, sd_img2img']),
        ({'shapes': 'sd2'}, ["'sd2'", 'sd1, versatile, small, tiny']),
        ({'batches': 8}, ['--config.batches=8', 'one or more']),
        ({'repeats': 1.5}, ['--config.repeats=1.5', 'a whole number']),
    ],
)
def test_configs_of_ones_own_with_mistakes(change, fragments, nothing_runs):
    refused(config_of() | change, fragments)


def test_configs_of_other_commands_are_told_apart(nothing_runs):
    refused(
        {'name': 'quickstart', 'repeats': 1},
        ['no source_px, batches', 'dtypes', 'Give one like `bench`'],
    )


@pytest.mark.parametrize(
    ('arguments', 'fragments'),
    [
        (['bench'], ['`purify bench ...`', 'variations']),
        (['bench', 'training'], ['`purify bench training`', 'Choose from: variations']),
        (['bench', 'variations', 'twice'], ["unknown argument 'twice'"]),
        (
            ['bench', 'variations', '--config', 'no.py'],
            ['no.py: no such file'],
        ),
        (
            ['bench', 'variations', '--config', SPEC, '--config.batch=8'],
            ['Did you mean --config.batches?'],
        ),
        (
            ['bench', 'variations', '--config', SPEC, '--stages=x'],
            ['--stages belongs to `purify run`'],
        ),
    ],
)
def test_mistakes_on_the_command_line(arguments, fragments, capsys):
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert all(fragment in said for fragment in fragments), said


def test_the_config_is_found_by_itself(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(bench, 'bench', lambda config, workdir: found.append((config, workdir)))
    monkeypatch.chdir(tmp_path)  # it comes with the package, so any folder will do
    assert cli.main(['bench', 'variations', '--config.steps=7']) == 0
    assert found[0][0]['steps'] == [7]
