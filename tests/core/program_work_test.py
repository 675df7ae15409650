"""What is read from XLA's text of a program, by hand and of programs compiled here."""

import jax
import jax.numpy as jnp
import pytest

from purify.core.program_work import read_work

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


TPU_LOOP = """\
HloModule jit_g, is_scheduled=true

%body (state: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %state = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %y = bf16[8,128]{1,0:T(8,128)(2,1)} negate(%x)
  ROOT %next = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) tuple(%i, %y)
}

%condition (state.1: (s32[], bf16[8,128])) -> pred[] {
  %end = s32[]{:T(128)} constant(53)
  %state.1 = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%i.1, %end), direction=LT
}

ENTRY %main (x.2: bf16[8,128]) -> bf16[8,128] {
  %three = s32[]{:T(128)} constant(3)
  %x.2 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %begin = s32[]{:T(128)} copy(%three)
  %start = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) tuple(%begin, %x.2)
  %loop = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)}) while(%start), condition=%condition, body=%body
  ROOT %out = bf16[8,128]{1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_the_length_of_a_loop_is_read_from_its_condition():
    """TPU programs do not say it."""
    work = read_work(TPU_LOOP)
    assert not work.open_loops
    assert work.moved['negate'] == 50 * 2 * 8 * 128 * 2
    work = read_work(TPU_LOOP.replace('direction=LT', 'direction=NE'))
    assert work.open_loops == 1
    assert work.moved['negate'] == 2 * 8 * 128 * 2


CHOICE = """\
HloModule jit_h

%small (a: f32[10]) -> f32[10] {
  %a = f32[10]{0} parameter(0)
  ROOT %n = f32[10]{0} negate(%a)
}

%large (b: f32[10]) -> f32[10] {
  %b = f32[10]{0} parameter(0)
  %once = f32[10]{0} negate(%b)
  ROOT %twice = f32[10]{0} negate(%once)
}

ENTRY %main (p: pred[], x: f32[10]) -> f32[10] {
  %p = pred[] parameter(0)
  %x = f32[10]{0} parameter(1)
  %work = (f32[10]{0}, s8[4194304]{0}) custom-call(%x), custom_call_target="__cublas$lt$matmul"
  %y = f32[10]{0} get-tuple-element(%work), index=0
  %room = f32[1000]{0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %c = f32[10]{0} conditional(%p, %y, %y), BRANCHES
}
"""


@pytest.mark.parametrize(
    'branches',
    ['true_computation=%small, false_computation=%large', 'branch_computations={%large, %small}'],
)
def test_of_a_choice_the_branch_that_moves_most_counts_and_scratch_does_not(branches):
    work = read_work(CHOICE.replace('BRANCHES', branches))
    assert work.moved == {'__cublas$lt$matmul': 80, 'negate': 2 * 80}
    assert work.launches == 3


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
