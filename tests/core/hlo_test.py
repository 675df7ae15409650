"""What is read from XLA's text of a program, by hand and of programs compiled here."""

import jax
import jax.numpy as jnp
import pytest

from purify.core.hlo import read_work

PROGRAM = """\
HloModule jit_f, is_scheduled=true

%fused_rows (param_0: f32[100,8], param_1: s32[]) -> f32[1,8] {
  %param_0 = f32[100,8]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %cut = f32[1,8]{1,0} dynamic-slice(%param_0, %param_1, %zero), dynamic_slice_sizes={1,8}
}

%fused_put (param_0.1: f32[100,8], param_1.1: f32[1,8], param_2.1: s32[]) -> f32[100,8] {
  %param_0.1 = f32[100,8]{1,0} parameter(0)
  %param_1.1 = f32[1,8]{1,0} parameter(1)
  %param_2.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %put = f32[100,8]{1,0} dynamic-update-slice(%param_0.1, %param_1.1, %param_2.1, %zero.1)
}

%body (state: (s32[], f32[100,8], f32[100,8])) -> (s32[], f32[100,8], f32[100,8]) {
  %state = (s32[], f32[100,8]{1,0}, /*index=2*/f32[100,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %from = f32[100,8]{1,0} get-tuple-element(%state), index=1
  %into = f32[100,8]{1,0} get-tuple-element(%state), index=2
  %row = f32[1,8]{1,0} fusion(%from, %i), kind=kLoop, calls=%fused_rows
  %made = f32[100,8]{1,0} fusion(%into, %row, %i), kind=kLoop, calls=%fused_put
  ROOT %next = (s32[], f32[100,8]{1,0}, f32[100,8]{1,0}) tuple(%i, %from, %made)
}

%condition (state.1: (s32[], f32[100,8], f32[100,8])) -> pred[] {
  %state.1 = (s32[], f32[100,8]{1,0}, f32[100,8]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (a: bf16[4,4], b: f32[100,8]) -> f32[100,8] {
  %a = bf16[4,4]{1,0} parameter(0)
  %b = f32[100,8]{1,0:T(8,128)} parameter(1)
  %near = f32[100,8]{1,0:T(8,128)S(1)} copy(%b)
  %wide = f32[4,4]{1,0} custom-call(%a, %a), custom_call_target="__cublas$gemm"
  %sum = f32[4,4]{1,0} all-reduce(%wide), replica_groups={}, to_apply=%condition
  %ahead = (f32[100,8]{1,0:S(1)}, f32[100,8]{1,0}, u32[]{:S(2)}) copy-start(%b)
  %ahead.1 = f32[100,8]{1,0:S(1)} copy-done(%ahead)
  %zero.2 = s32[] constant(0)
  %start = (s32[], f32[100,8]{1,0}, f32[100,8]{1,0}) tuple(%zero.2, %b, %b)
  %loop = (s32[], f32[100,8]{1,0}, f32[100,8]{1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"50"}}
  ROOT %out = f32[100,8]{1,0} get-tuple-element(%loop), index=2
}
"""  # noqa: E501


def test_bytes_kernels_and_collectives_of_a_program_by_hand():
    work = read_work(PROGRAM)
    row, index = 8 * 4, 4
    # two kernels: each reads a row and where it lies, and writes a row
    assert work.moved['fused element-wise'] == 50 * 2 * (2 * row + index)
    assert work.moved['__cublas$gemm'] == 2 * 16 * 2 + 16 * 4
    assert work.moved['all-reduce'] == 2 * 16 * 4
    assert work.moved['transpose or copy'] == 100 * 8 * 4  # into the chip's own memory: read alone
    assert work.moved['copy-start'] == 100 * 8 * 4  # likewise, ahead of its use
    assert work.kernels['fused element-wise'] == 2
    assert work.launches == 2 * 50 + 4
    assert work.collectives == {'all-reduce': 1}
    assert not work.open_loops
    assert not work.host_transfers


def test_a_loop_of_unknown_length_counts_once_and_is_told():
    work = read_work(PROGRAM.replace('"known_trip_count":{"n":"50"}', ''))
    assert work.open_loops == 1
    assert work.moved['fused element-wise'] == 2 * (2 * 8 * 4 + 4)


@pytest.mark.parametrize('steps', [1, 7])
def test_loops_of_compiled_programs_count_as_often_as_they_run(steps):
    side = 64

    def program(x, w):
        many = jax.lax.scan(lambda x, _: (x @ w, None), x, length=steps)[0]
        return many if steps > 1 else x @ w

    square = jnp.ones((side, side))
    work = read_work(jax.jit(program).lower(square, square).compile().as_text())
    products = sum(moved for kind, moved in work.moved.items() if 'dot' in kind or 'gemm' in kind)
    assert products == steps * 3 * side * side * 4
    assert not work.open_loops


def test_words_between_devices_are_found():
    mesh = jax.make_mesh((8,), ('data',))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
    spread = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=rows)
    found = read_work(jax.jit(lambda x: x.sum(0)).lower(spread).compile().as_text())
    assert sum(found.collectives.values()) == 1
    alone = jax.jit(lambda x: x + 1, out_shardings=rows).lower(spread)
    assert not read_work(alone.compile().as_text()).collectives


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match='no entry computation'):
        read_work('module @jit_f {}')
