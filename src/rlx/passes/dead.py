"""Dead code elimination: drop every node that no output depends on, unused carries and outputs of regions included.

Inputs and parameters of the top-level graph stay, as they are its signature. Ops have no side effects, so what is not
read is dropped.
"""

from __future__ import annotations

from dataclasses import replace

from rlx.ir.graph import Graph, Node, Value


def eliminate_dead(graph: Graph) -> Graph:
    """`graph` without dead nodes, inside regions too; itself where all live."""
    live: set[Value] = set(graph.outputs)
    kept: list[Node] = []
    changed = False
    for node in reversed(graph.nodes):
        if live.isdisjoint(node.outputs):
            changed = True
            continue
        new = _trim(node, live) if node.regions else node
        changed |= new is not node
        live.update(new.inputs)
        kept.append(new)
    return replace(graph, nodes=tuple(reversed(kept))) if changed else graph


def _trim(node: Node, live: set[Value]) -> Node:
    if node.op == "cond":
        node = _trim_cond(node, live)
    elif node.op == "while_loop":
        node = _trim_while(node, live)
    elif node.op == "scan":
        node = _trim_scan(node, live)
    regions = tuple(eliminate_dead(region) for region in node.regions)
    if all(a is b for a, b in zip(regions, node.regions, strict=True)):
        return node
    return replace(node, regions=regions)


def _trim_cond(node: Node, live: set[Value]) -> Node:
    """Drop outputs that nobody reads and operands that neither branch reads."""
    keep = [i for i, v in enumerate(node.outputs) if v in live]
    regions = tuple(eliminate_dead(_select_outputs(region, keep)) for region in node.regions)
    reads = [_read_inputs(region) for region in regions]
    used = [i for i in range(len(node.inputs) - 1) if any(i in r for r in reads)]
    if len(keep) == len(node.outputs) and len(used) == len(node.inputs) - 1:
        return node
    return replace(
        node,
        inputs=(node.inputs[0], *(node.inputs[1 + i] for i in used)),
        outputs=tuple(node.outputs[i] for i in keep),
        regions=tuple(replace(r, inputs=tuple(r.inputs[i] for i in used)) for r in regions),
    )


def _trim_while(node: Node, live: set[Value]) -> Node:
    """Drop carries that neither the test, nor a live carry's next value, nor an output needs; and unread constants."""
    carries = node.attrs["num_carry"]
    assert isinstance(carries, int)
    test, body = node.regions
    needed = {i for i in range(carries) if node.outputs[i] in live} | {i for i in _read_inputs(test) if i < carries}
    while True:
        reads = _read_inputs(eliminate_dead(_select_outputs(body, sorted(needed))))
        more = needed | {i for i in reads if i < carries}
        if more == needed:
            break
        needed = more
    keep = sorted(needed)
    body = eliminate_dead(_select_outputs(body, keep))
    reads = _read_inputs(body) | _read_inputs(test)
    consts = [i for i in range(carries, len(node.inputs)) if i in reads]
    if len(keep) == carries and len(consts) == len(node.inputs) - carries:
        return node
    places = keep + consts
    return replace(
        node,
        inputs=tuple(node.inputs[i] for i in places),
        outputs=tuple(node.outputs[i] for i in keep),
        attrs={**node.attrs, "num_carry": len(keep)},
        regions=tuple(replace(r, inputs=tuple(r.inputs[i] for i in places)) for r in (test, body)),
    )


def _trim_scan(node: Node, live: set[Value]) -> Node:
    """As for while_loop; stacked outputs that nobody reads and sliced inputs that the body does not read go too."""
    carries, xs = node.attrs["num_carry"], node.attrs["num_xs"]
    assert isinstance(carries, int)
    assert isinstance(xs, int)
    (body,) = node.regions
    ys = [i for i in range(carries, len(node.outputs)) if node.outputs[i] in live]
    needed = {i for i in range(carries) if node.outputs[i] in live}
    while True:
        reads = _read_inputs(eliminate_dead(_select_outputs(body, sorted(needed) + ys)))
        more = needed | {i for i in reads if i < carries}
        if more == needed:
            break
        needed = more
    keep = sorted(needed)
    body = eliminate_dead(_select_outputs(body, keep + ys))
    reads = _read_inputs(body)
    kept_xs = [i for i in range(carries, carries + xs) if i in reads]
    consts = [i for i in range(carries + xs, len(node.inputs)) if i in reads]
    places = keep + kept_xs + consts
    if len(places) == len(node.inputs) and len(keep) + len(ys) == len(node.outputs):
        return node
    return replace(
        node,
        inputs=tuple(node.inputs[i] for i in places),
        outputs=tuple(node.outputs[i] for i in keep + ys),
        attrs={**node.attrs, "num_carry": len(keep), "num_xs": len(kept_xs)},
        regions=(replace(body, inputs=tuple(body.inputs[i] for i in places)),),
    )


def _select_outputs(region: Graph, keep: list[int]) -> Graph:
    if len(keep) == len(region.outputs):
        return region
    return replace(
        region,
        outputs=tuple(region.outputs[i] for i in keep),
        output_names=tuple(region.output_names[i] for i in keep),
    )


def _read_inputs(region: Graph) -> set[int]:
    """Positions of the inputs that a node or an output of `region` reads."""
    read = set(region.outputs)
    for node in region.nodes:
        read.update(node.inputs)
    return {i for i, value in enumerate(region.inputs) if value in read}
