"""Control flow: cond becomes a branch, while_loop a repeat; both lower their regions into step lists of their own.

Region inputs are views of what the operands are; what a region computes from static inputs alone still runs once, in
setup. Carries of a loop have memory of their own: a turn computes the next values beside them and copies them over,
except where a carry is passed on as it is, or is updated in place by an op that is its only reader.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rlx.codegen.lower.context import Scope
from rlx.codegen.lower.stores import copy, in_memory, store_value
from rlx.codegen.lower.strided import strided_view
from rlx.codegen.lower.view import View
from rlx.codegen.program import Branch, Operand, Repeat, Step
from rlx.ir.graph import Graph, Value
from rlx.passes.group import Group

#: Lowers the graph of a scope whose inputs and destinations are set.
LowerScope = Callable[[Scope], None]

#: Ops that may write their first operand's memory in place.
UPDATES = ("dynamic_update_slice", "scatter")


def lower_cond(scope: Scope, group: Group, lower: LowerScope) -> None:
    """A branch; both arms write the same memory."""
    node = group.nodes[-1]
    predicate, *operands = node.inputs
    static = node.outputs[0] in scope.static
    views = [_operand_view(scope, v) for v in operands]
    test = in_memory(scope, predicate)
    results = [scope.allocate(v) for v in node.outputs]
    arms = []
    for region in node.regions:
        arm = _region(scope, region, operands, views, static)
        for value, view in zip(region.outputs, results, strict=True):
            arm.destinations.setdefault(value, view)
        lower(arm)
        finish(arm, region.outputs, results)
        arms.append(tuple(arm.steps))
    scope.emit(Branch(Operand(test.buffer, test.byte_offset), arms[0], arms[1], node.location), static)
    scope.views.update(zip(node.outputs, results, strict=True))


def lower_while(scope: Scope, group: Group, lower: LowerScope) -> None:
    """A repeat over carries that have memory of their own."""
    node = group.nodes[-1]
    count: Any = node.attrs["num_carry"]
    test_region, body_region = node.regions
    static = bool(node.outputs) and node.outputs[0] in scope.static
    carries: list[View] = []
    for value, result in zip(node.inputs, node.outputs, strict=False):
        view = scope.allocate(result)
        if not view.is_row_major:
            view = scope.allocate_like(result.type, static)
        store_value(scope, value, view, label="copy", node=node, static=static)
        carries.append(view)
    views = carries + [_operand_view(scope, v) for v in node.inputs[count:]]

    test = _region(scope, test_region, node.inputs, views, static, carried=count)
    predicate = test.scratch(test_region.outputs[0].type.dtype, ())
    test.destinations[test_region.outputs[0]] = predicate
    lower(test)
    finish(test, test_region.outputs, [predicate])

    body = _region(scope, body_region, node.inputs, views, static, carried=count)
    nexts: list[View] = []
    taken: set[Value] = set()
    for value, carry, given in zip(body_region.outputs, carries, body_region.inputs, strict=False):
        if value is given:
            nexts.append(carry)
        elif value not in taken and _updates_in_place(body_region, value, given):
            body.expendable.add(given)
            body.destinations[value] = carry
            nexts.append(carry)
        else:
            following = body.scratch(value.type.dtype, value.type.sizes)
            body.destinations.setdefault(value, following)
            nexts.append(following)
        taken.add(value)
    lower(body)
    finish(body, body_region.outputs, nexts)
    for following, carry in zip(nexts, carries, strict=True):
        if following is not carry and carry.elements:
            body.steps.append(copy(following, carry, node.location))
    scope.emit(
        Repeat(tuple(test.steps), Operand(predicate.buffer, predicate.byte_offset), tuple(body.steps), node.location),
        static,
    )
    scope.views.update(zip(node.outputs, carries, strict=True))


def _updates_in_place(region: Graph, value: Value, carry: Value) -> bool:
    node = region.producers.get(value)
    return (
        node is not None
        and node.op in UPDATES
        and node.inputs[0] is carry
        and carry not in node.inputs[1:]
        and region.users.get(carry) == (node,)
        and region.outputs.count(value) == 1
        and carry not in region.outputs
    )


def _operand_view(scope: Scope, value: Value) -> View:
    view = strided_view(scope, value)
    return in_memory(scope, value) if view is None else view


def _region(
    scope: Scope, region: Graph, operands: Sequence[Value], views: Sequence[View], static: bool, *, carried: int = 0
) -> Scope:
    """A scope for `region`, its inputs bound; carried inputs change from turn to turn and so are never static."""
    steps: list[Step] = []
    inner = Scope(scope.program, region, steps, in_setup=scope.in_setup or static)
    inner.views.update(zip(region.inputs, views, strict=True))
    inner.find_static(
        {
            given
            for place, (given, operand) in enumerate(zip(region.inputs, operands, strict=True))
            if place >= carried and operand in scope.static
        }
    )
    return inner


def finish(scope: Scope, outputs: Sequence[Value], views: Sequence[View]) -> None:
    """Copy outputs that do not lie where they belong: inputs passed on, static values, one value given twice.

    Copies never read what an earlier one of them has written.
    """
    for value, view in zip(outputs, views, strict=True):
        lies = scope.view_of(value)
        if lies is not None and (lies.buffer, lies.offset, lies.strides) == (view.buffer, view.offset, view.strides):
            continue
        store_value(scope, value, view, label="copy", node=scope.producers.get(value), static=False)
