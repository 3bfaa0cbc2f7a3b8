"""Einsum: sums of products by index letters, as pairwise `dot_general`s."""

from __future__ import annotations

from rlx.frontends.onnx.reduce import total
from rlx.frontends.onnx.site import Site, handles
from rlx.ir import dtypes
from rlx.ir.graph import Value

_ELLIPSIS = "..."


@handles("Einsum")
def einsum(site: Site) -> Value:
    terms, result = _parse(site)
    operands = [_diagonal(site, x, labels) for x, labels in zip(site.operands(), terms, strict=True)]
    sizes: dict[str, int] = {}
    for x, labels in operands:
        for label, n in zip(labels, x.type.sizes, strict=True):
            known = sizes.setdefault(label, n)
            if 1 not in (known, n) and known != n:
                raise site.misfit(f"index {label!r} is {known} in one operand and {n} in another")
            sizes[label] = max(known, n)
    x, labels = operands[0]
    for i, (y, others) in enumerate(operands[1:], start=1):
        needed = set(result).union(*(rest for _, rest in operands[i + 1 :]))
        x, labels = _contract(site, x, labels, y, others, needed, sizes)
    x, labels = _sum_out(site, x, labels, set(result))
    order = tuple(labels.index(label) for label in result)
    return x if order == tuple(range(len(order))) else site.b.emit("transpose", x, permutation=order)


def _parse(site: Site) -> tuple[list[list[str]], list[str]]:
    """Labels of each operand and of the result; an ellipsis becomes labels '0', '1', ... counted from the right."""
    equation = site.attr("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    texts = left.split(",")
    operands = site.operands()
    if len(texts) != len(operands):
        raise site.misfit(f"{equation!r} names {len(texts)} operands, there are {len(operands)}")
    terms, widest = [], 0
    for text, x in zip(texts, operands, strict=True):
        width = x.type.rank - len(text.replace(_ELLIPSIS, ""))
        if width < 0 or (width > 0 and _ELLIPSIS not in text):
            raise site.misfit(f"{text!r} in {equation!r} does not fit {x.type}")
        terms.append(_expand(text, width))
        widest = max(widest, width if _ELLIPSIS in text else 0)
    if arrow:
        return terms, _expand(right, widest)
    letters = [label for term in terms for label in term if not label.isdigit()]
    once = sorted(label for label in set(letters) if letters.count(label) == 1)
    return terms, [*_expand(_ELLIPSIS, widest), *once]


def _expand(text: str, width: int) -> list[str]:
    before, dots, after = text.partition(_ELLIPSIS)
    return [*before, *(str(i) for i in range(width - 1, -1, -1) if dots), *after]


def _diagonal(site: Site, x: Value, labels: list[str]) -> tuple[Value, list[str]]:
    """Where a label repeats, only equal indices count: the others are masked and summed away."""
    b = site.b
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            same = b.emit("eq", b.iota(x.type.shape, first, dtypes.i32), b.iota(x.type.shape, second, dtypes.i32))
            x = total(site, b.emit("select", same, x, b.full(x.type.shape, 0, x.type.dtype)), (second,))
            labels = labels[:second] + labels[second + 1 :]
    return x, labels


def _sum_out(site: Site, x: Value, labels: list[str], keep: set[str]) -> tuple[Value, list[str]]:
    gone = tuple(i for i, label in enumerate(labels) if label not in keep)
    return total(site, x, gone), [label for label in labels if label in keep]


def _contract(
    site: Site, x: Value, left: list[str], y: Value, right: list[str], needed: set[str], sizes: dict[str, int]
) -> tuple[Value, list[str]]:
    x, left = _sum_out(site, x, left, needed | set(right))
    y, right = _sum_out(site, y, right, needed | set(left))
    x, y = _widen(site, x, left, set(right), sizes), _widen(site, y, right, set(left), sizes)
    shared = [label for label in left if label in right]
    batch = [label for label in shared if label in needed]
    inner = [label for label in shared if label not in needed]
    result = site.b.emit(
        "dot_general",
        x,
        y,
        lhs_contract=tuple(left.index(label) for label in inner),
        rhs_contract=tuple(right.index(label) for label in inner),
        lhs_batch=tuple(left.index(label) for label in batch),
        rhs_batch=tuple(right.index(label) for label in batch),
    )
    free = [label for label in left if label not in shared] + [label for label in right if label not in shared]
    return result, batch + free


def _widen(site: Site, x: Value, labels: list[str], shared: set[str], sizes: dict[str, int]) -> Value:
    """Size-1 axes of ellipsis labels, broadcast to the other operand's size."""
    shape = tuple(sizes[label] if label in shared else n for label, n in zip(labels, x.type.sizes, strict=True))
    return site.b.broadcast(x, shape)
