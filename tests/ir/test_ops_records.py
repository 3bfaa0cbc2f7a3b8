"""Records of primitives: complete, consistent with themselves, and the same from run to run."""

from __future__ import annotations

import numpy as np
import pytest

from rlx.ir import Dim, TensorType, all_ops, dtypes, get, type_of
from rlx.ir.op import Call, complete_attrs
from rlx.testing.op_samples import assert_close, evaluate_sample, iter_samples, sample_node

PRIMITIVES = sorted(name for name, op in all_ops().items() if not op.is_composite)
SAMPLED = [name for name in PRIMITIVES if name != "custom_call"]
POINTWISE = [name for name in PRIMITIVES if get(name).pointwise]

#: The whole primitive set, so that an op that gets lost is missed.
EXPECTED = (
    "exp expm1 log log1p sqrt rsqrt sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh logistic erf cbrt "
    "neg abs sign floor ceil round is_finite not popcnt clz real imag conj complex "
    "add sub mul div rem pow max min atan2 nextafter and or xor "
    "shift_left shift_right_logical shift_right_arithmetic eq ne lt le gt ge select clamp convert bitcast_convert "
    "constant iota broadcast_in_dim reshape transpose rev slice dynamic_slice dynamic_update_slice pad concatenate "
    "gather scatter reduce_sum reduce_prod reduce_max reduce_min reduce_and reduce_or argmax argmin "
    "cumsum cumprod cummax cummin sort top_k reduce_window_sum reduce_window_max reduce_window_min "
    "dot_general conv_general rng_bits cond while_loop scan custom_call"
)


def test_the_primitive_set_is_whole_and_no_larger() -> None:
    assert sorted(EXPECTED.split()) == PRIMITIVES


@pytest.mark.parametrize("op", SAMPLED)
def test_evaluate_gives_exactly_the_types_that_infer_promises_and_leaves_its_operands_alone(op: str) -> None:
    count = 0
    for id, sample, expected in iter_samples(op):
        before = [x.tobytes() for x in sample.arrays]
        types = tuple(v.type for v in sample_node(op, sample).outputs)
        assert tuple(type_of(x) for x in expected) == types, id
        again = evaluate_sample(op, sample)
        assert [x.tobytes() for x in again] == [x.tobytes() for x in expected], f"{id} differs from run to run"
        assert [x.tobytes() for x in sample.arrays] == before, f"{id} wrote its operands"
        assert_close(op, sample, again, expected)
        count += 1
    assert count >= 4


@pytest.mark.parametrize("op", SAMPLED)
def test_samples_are_the_same_in_every_process_and_differ_by_seed(op: str) -> None:
    def drawn(seed: int) -> list[bytes]:
        return [
            x.tobytes() for _, s, _ in iter_samples(op, seed) for x in (*s.arrays, s.attrs.get("value", np.zeros(0)))
        ]

    assert drawn(3) == drawn(3)
    assert op == "iota" or drawn(3) != drawn(4)


@pytest.mark.parametrize("op", [op for op in POINTWISE if op != "select"])
def test_samples_of_a_pointwise_op_cover_every_dtype_it_accepts(op: str) -> None:
    record = get(op)
    covered = {type_of(s.arrays[0]).dtype for _, s, _ in iter_samples(op)}
    arity = len(next(iter_samples(op))[1].arrays)
    attrs = {"dtype": dtypes.f32} if op == "convert" else {}
    for dtype in dtypes.ALL:
        if op == "bitcast_convert":
            attrs = {"dtype": dtype}
        try:
            record.infer(Call((TensorType((2,), dtype),) * arity, complete_attrs(record, attrs)))
        except TypeError:
            assert dtype not in covered
        else:
            assert dtype in covered, f"{op} accepts {dtype}, no sample has it"


@pytest.mark.parametrize("op", [op for op in POINTWISE if op not in ("select", "bitcast_convert")])
def test_a_pointwise_op_has_samples_of_rank_zero_size_one_and_no_elements(op: str) -> None:
    shapes = {s.arrays[0].shape for _, s, _ in iter_samples(op)}
    if op in ("clz", "popcnt", "pow", "clamp") or op.startswith("shift"):
        shapes |= {(1,), (), (0, 3)}
    assert {(1,), (), (0, 3)} <= shapes


@pytest.mark.parametrize("op", POINTWISE)
def test_the_type_rule_of_a_pointwise_op_keeps_symbolic_shapes(op: str) -> None:
    n = Dim("n", 1, 64)
    _, sample, _ = next(iter_samples(op))
    types = tuple(TensorType((n, 3), type_of(x).dtype) for x in sample.arrays)
    (result,) = get(op).infer(Call(types, sample.attrs))
    assert result.shape == (n, 3)


@pytest.mark.parametrize("op", [op for op in POINTWISE if get(op).commutative])
def test_a_commutative_op_gives_the_same_with_its_operands_exchanged(op: str) -> None:
    for _, sample, expected in iter_samples(op):
        swapped = type(sample)(sample.arrays[::-1], sample.attrs)
        assert_close(op, sample, evaluate_sample(op, swapped), expected)
