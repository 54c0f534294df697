"""Costs that are read from the text of a compiled program."""

from benchmarks import hlo

# A loop of 4 steps: a batch is gathered, convolved, and reduced; a random bit takes 3 turns.
PROGRAM = """
HloModule jit_step, is_scheduled=true

%fused_gather (p0: u8[1000,8,8,3], p1: s32[2]) -> bf16[2,8,8,3] {
  %p0 = u8[1000,8,8,3]{3,2,1,0} parameter(0)
  %p1 = s32[2]{0} parameter(1)
  %g = u8[2,8,8,3]{3,2,1,0} gather(%p0, %p1), offset_dims={1,2,3}
  ROOT %c = bf16[2,8,8,3]{3,2,1,0} convert(%g)
}

%fused_reduce (p: bf16[2,8,8,4]) -> f32[4] {
  %p = bf16[2,8,8,4]{3,2,1,0} parameter(0)
  %x = f32[2,8,8,4]{3,2,1,0} convert(%p)
  %zero = f32[] constant(0)
  ROOT %r = f32[4]{0} reduce(%x, %zero), dimensions={0,1,2}, to_apply=%add
}

%fused_slice (v: f32[100]) -> f32[4] {
  %v = f32[100]{0} parameter(0)
  %b = f32[100]{0} bitcast(%v)
  %s = f32[4]{0} slice(%b), slice={[0:4]}
  ROOT %m = f32[4]{0} multiply(%s, %s)
}

%bits (t: (s32[], u32[2])) -> (s32[], u32[2]) {
  %t = (s32[], u32[2]{0}) parameter(0)
  %u = u32[2]{0} get-tuple-element(%t), index=1
  %n = s32[] get-tuple-element(%t), index=0
  %w = u32[2]{0} fusion(%u), kind=kLoop, calls=%fused_xor
  ROOT %out = (s32[], u32[2]{0}) tuple(%n, %w)
}

%fused_xor (p: u32[2]) -> u32[2] {
  %p = u32[2]{0} parameter(0)
  ROOT %x = u32[2]{0} xor(%p, %p)
}

%body (t: (u8[1000,8,8,3], s32[2], f32[100])) -> (u8[1000,8,8,3], s32[2], f32[100]) {
  %t = (u8[1000,8,8,3]{3,2,1,0}, s32[2]{0}, f32[100]{0}) parameter(0)
  %data = u8[1000,8,8,3]{3,2,1,0} get-tuple-element(%t), index=0
  %index = s32[2]{0} get-tuple-element(%t), index=1
  %vector = f32[100]{0} get-tuple-element(%t), index=2
  %images = bf16[2,8,8,3]{3,2,1,0} fusion(%data, %index), kind=kLoop, calls=%fused_gather
  %kernel = f32[4]{0} fusion(%vector), kind=kLoop, calls=%fused_slice
  %conv = (bf16[2,8,8,4]{3,2,1,0}, u8[0]{0}) custom-call(%images, %kernel), custom_call_target="__cudnn$convForward"
  %map = bf16[2,8,8,4]{3,2,1,0} get-tuple-element(%conv), index=0
  %sum = f32[4]{0} fusion(%map), kind=kInput, calls=%fused_reduce
  %seed = (s32[], u32[2]{0}) tuple(%index, %index)
  %random = (s32[], u32[2]{0}) while(%seed), condition=%less, body=%bits, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %out = (u8[1000,8,8,3]{3,2,1,0}, s32[2]{0}, f32[100]{0}) tuple(%data, %index, %vector)
}

ENTRY %main (a: u8[1000,8,8,3], b: s32[2], c: f32[100]) -> (u8[1000,8,8,3], s32[2], f32[100]) {
  %a = u8[1000,8,8,3]{3,2,1,0} parameter(0)
  %b = s32[2]{0} parameter(1)
  %c = f32[100]{0} parameter(2)
  %start = f32[100]{0} copy(%c)
  %init = (u8[1000,8,8,3]{3,2,1,0}, s32[2]{0}, f32[100]{0}) tuple(%a, %b, %start)
  ROOT %loop = (u8[1000,8,8,3]{3,2,1,0}, s32[2]{0}, f32[100]{0}) while(%init), condition=%more, body=%body, backend_config={"known_trip_count":{"n":"4"}}
}
"""


def test_sizes_are_those_of_the_types():
    assert hlo.size("f32[2,3]{1,0}") == 24
    assert hlo.size("bf16[64,32,32,16]{3,2,1,0}") == 2 * 64 * 32 * 32 * 16
    assert hlo.size("(f32[], (pred[7], u8[0]{0}), s32[2])") == 4 + 7 + 8
    assert hlo.size("token[]") == 0


def test_a_step_is_a_turn_of_the_loop_that_starts_most_kernels():
    found = hlo.costs(PROGRAM)
    assert found.kernels == {
        "forward": 1, "backward": 0, "product": 0, "elementwise": 2 + 3, "reduction": 1, "other": 0,
    }  # fmt: skip
    assert found.total == 7


def test_of_the_data_set_and_of_slices_only_what_is_taken_counts():
    images, maps, kernel = 2 * 8 * 8 * 3, 2 * 2 * 8 * 8 * 4, 4 * 4
    gather = images + 2 * 4 + 2 * images
    convolution = 2 * images + kernel + maps
    assert hlo.costs(PROGRAM).bytes == (
        gather + (kernel + kernel) + convolution + (maps + 16) + 3 * (8 + 8)
    )


def test_without_such_a_loop_the_whole_program_is_a_step():
    lines = PROGRAM.replace("while(%init)", "custom-call(%init)").splitlines()
    found = hlo.costs("\n".join(lines))
    assert found.total == 2
    assert found.kernels["other"] == 2
