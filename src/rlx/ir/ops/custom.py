"""The op that calls a stranger's function by name; `rlx.ir.custom` holds the functions.

A graph may name a target that this process does not know: it types, prints and parses, and is refused when run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rlx.errors import IRError
from rlx.ir.custom import find_custom_call, get_custom_call
from rlx.ir.dtypes import DType
from rlx.ir.graph import Attribute
from rlx.ir.op import REQUIRED, Attrs, Call, Op, RunRegion, Sample, define
from rlx.ir.ops.signature import at_least, is_size, require
from rlx.ir.types import TensorType, type_of


def _attributes(attrs: Attrs) -> Mapping[str, Attribute]:
    pairs = attrs["attributes"]
    good = isinstance(pairs, tuple) and all(
        isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) for p in pairs
    )
    require(good, f"custom_call: attributes must be a tuple of (name, value) pairs, got {pairs!r}")
    return dict(pairs)


def _result_types(attrs: Attrs) -> tuple[TensorType, ...]:
    shapes, dtypes = attrs["result_shapes"], attrs["result_dtypes"]
    good = isinstance(shapes, tuple) and all(isinstance(s, tuple) and all(is_size(d) for d in s) for s in shapes)
    require(good, f"custom_call: result_shapes must be a tuple of shapes, got {shapes!r}")
    good = isinstance(dtypes, tuple) and all(isinstance(d, DType) for d in dtypes)
    require(good, f"custom_call: result_dtypes must be a tuple of dtypes, got {dtypes!r}")
    require(len(shapes) == len(dtypes), f"custom_call: {len(shapes)} result_shapes, but {len(dtypes)} result_dtypes")
    return tuple(TensorType(s, d) for s, d in zip(shapes, dtypes, strict=True))


def _listed(types: Sequence[TensorType]) -> str:
    return ", ".join(map(str, types)) or "nothing"


def _infer(call: Call) -> tuple[TensorType, ...]:
    types = at_least("custom_call", call, 0)
    target, attributes = call.attrs["target"], _attributes(call.attrs)
    require(isinstance(target, str) and target != "", f"custom_call: target must be a name, got {target!r}")
    declared = _result_types(call.attrs)
    known = find_custom_call(target)
    if known is not None and known.infer is not None:
        inferred = tuple(known.infer(types, attributes))
        require(
            inferred == declared,
            f"custom_call {target!r} gives {_listed(inferred)}, declared are {_listed(declared)}",
        )
    return declared


def _evaluate(arrays: Sequence[np.ndarray], attrs: Attrs, run_region: RunRegion) -> tuple[np.ndarray, ...]:
    target = attrs["target"]
    results = tuple(np.asarray(r) for r in get_custom_call(target).evaluate(arrays, _attributes(attrs)))
    declared = _result_types(attrs)
    given = tuple(type_of(r) for r in results)
    if given != declared:
        raise IRError(f"custom_call {target!r} gave {_listed(given)}, declared are {_listed(declared)}")
    return results


def _samples(rng: np.random.Generator) -> Iterator[Sample]:
    """None: what a target does is for whoever registers it to sample."""
    return iter(())


define(
    Op(
        "custom_call",
        "The registered function `target` on the operands; results have the declared shapes and dtypes.",
        _infer,
        attrs={"target": REQUIRED, "result_shapes": REQUIRED, "result_dtypes": REQUIRED, "attributes": ()},
        evaluate=_evaluate,
        samples=_samples,
    )
)
