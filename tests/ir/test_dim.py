"""Symbolic dimensions: canonical arithmetic, bounds, order, evaluation, text."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlx.errors import IRError, TextError
from rlx.ir import Dim
from rlx.ir.size_text import parse_dim

B, S, T = Dim("batch", 1, 8), Dim("seq"), Dim("total", 1)
SYMBOLS = {"batch": B, "seq": S, "total": T}


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (B, "batch"),
        (2 * S + 1, "2*seq + 1"),
        (S - B, "seq - batch"),
        (S * B - 3, "batch*seq - 3"),
        (S * S, "seq*seq"),
        ((S + 1) // 2, "(seq + 1) // 2"),
        (3 * (S // 2) + S % 4, "3*(seq // 2) + (seq mod 4)"),
        (-(-S // 3), "seq - ((2*seq) // 3)"),
        (S // B, "seq // batch"),
    ],
)
def test_sizes_print_as_sums_of_products(size: Dim, text: str) -> None:
    assert str(size) == text
    assert parse_dim(text, SYMBOLS) == size


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((S + B) * (S - B), S * S - B * B),
        ((4 * S + 6) // 4, S + 1),
        ((2 * S + 4) // 6, (S + 2) // 3),
        ((S * B * 384) // (S * B), 384),
        ((S * S + 2 * S * T + T * T) // (S + T), S + T),
        ((S + 3) // S, 1 + 3 // S),
        (B // 9, 0),
        (B % 9, B),
        ((6 * S + 3) % 6, 3),
        ((6 * S + 4 * B) % 4, 2 * (S % 2)),
        (S - S, 0),
        (S * 0, 0),
        (2 * S // -2, -S),
    ],
)
def test_equal_expressions_compare_and_hash_equal(left: Dim | int, right: Dim | int) -> None:
    assert left == right
    assert hash(left) == hash(right)
    assert type(left) is type(right)


def test_a_size_without_symbols_is_a_plain_int() -> None:
    assert type(S + 2 - S) is int
    assert (S + 2) - S == 2


def test_symbols_with_other_bounds_are_other_sizes() -> None:
    assert Dim("n", 1, 4) != Dim("n", 1, 5)
    assert Dim("n") == Dim("n")


sizes = st.recursive(
    st.one_of(st.sampled_from([B, S, T]), st.integers(-5, 9)),
    lambda inner: st.tuples(st.sampled_from("+-*/%"), inner, inner),
    max_leaves=7,
)


def compute(tree: object, bindings: dict[str, int] | None) -> int | Dim:
    """The value of a tree: a size where bindings is None, else Python's own integer arithmetic."""
    if isinstance(tree, Dim):
        return tree if bindings is None else bindings[str(tree)]
    if isinstance(tree, int):
        return tree
    op, x, y = tree  # type: ignore[misc]
    a, b = compute(x, bindings), compute(y, bindings)
    if op in "/%" and b == 0:
        raise ZeroDivisionError
    return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a // b, "%": lambda: a % b}[op]()


@settings(max_examples=300, deadline=None)
@given(sizes, st.integers(1, 8), st.integers(0, 30), st.integers(1, 30))
def test_sizes_evaluate_as_pythons_integers_do_within_their_bounds_and_parse_back(
    tree: object, b: int, s: int, t: int
) -> None:
    bindings = {"batch": b, "seq": s, "total": t}
    try:
        want, size = compute(tree, bindings), compute(tree, None)
    except ZeroDivisionError:
        return
    if isinstance(size, int):
        assert size == want
        return
    assert size.evaluate(bindings) == want
    assert size.lo is None or size.lo <= want
    assert size.hi is None or want <= size.hi
    again = parse_dim(str(size), SYMBOLS)
    assert again == size
    assert hash(again) == hash(size)


def test_bounds_follow_the_arithmetic() -> None:
    assert ((2 * B + 1).lo, (2 * B + 1).hi) == (3, 17)
    assert ((5 - B).lo, (5 - B).hi) == (-3, 4)
    assert (S.lo, S.hi) == (0, None)
    assert ((S % 4).lo, (S % 4).hi) == (0, 3)
    assert ((B // 3).lo, (B // 3).hi) == (0, 2)


def test_order_is_answered_where_bounds_decide() -> None:
    assert B <= 8
    assert B > 0
    assert not B > 8
    assert S + 1 > S
    assert T * S >= 0


def test_order_that_depends_on_the_sizes_is_an_error() -> None:
    with pytest.raises(IRError, match="whether seq <= batch depends on the sizes"):
        assert S <= B


def test_evaluation_refuses_missing_symbols_and_sizes_outside_the_bounds() -> None:
    with pytest.raises(IRError, match=r"dimension 'batch \+ seq' needs a size for 'seq'|needs a size for 'seq'"):
        (B + S).evaluate({"batch": 2})
    with pytest.raises(IRError, match="dimension 'batch' cannot be 9: it is at least 1 and at most 8"):
        B.evaluate({"batch": 9})
    with pytest.raises(IRError, match="divided by zero"):
        (T // S).evaluate({"total": 4, "seq": 0})


def test_substitution_by_another_symbol_keeps_the_expression() -> None:
    assert (2 * S + 1).substitute({"seq": T - 1}) == 2 * T - 1


def test_a_name_that_is_no_plain_word_is_quoted() -> None:
    odd = Dim("past length + 1")
    assert str(odd * 2) == '2*"past length + 1"'
    assert parse_dim(str(odd * 2), {"past length + 1": odd}) == odd * 2
    assert parse_dim(str(Dim("mod") % 3), {"mod": Dim("mod")}) == Dim("mod") % 3


def test_symbols_are_listed_by_name() -> None:
    assert (S // B + T * 2).symbols == (B, S, T)
    assert S.symbol == "seq"
    assert (S + 1).symbol is None


def test_dims_pickle() -> None:
    size = (S + 1) // 2 * B
    assert pickle.loads(pickle.dumps(size)) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seq +", "line 1, column 6: expected a size, found the end of the text"),
        ("sek", "no dimension is named 'sek'"),
        ("seq // 0", "a size is divided by zero"),
        ("(seq", "expected ')'"),
        ("seq seq", "expected the end of the size, found 'seq'"),
    ],
)
def test_bad_text_is_a_text_error(text: str, message: str) -> None:
    with pytest.raises(TextError) as caught:
        parse_dim(text, SYMBOLS)
    assert message in str(caught.value)


@pytest.mark.parametrize(("lo", "hi"), [(-1, None), (3, 2)])
def test_bounds_that_hold_no_size_are_refused(lo: int, hi: int | None) -> None:
    with pytest.raises(IRError, match="which hold no size"):
        Dim("n", lo, hi)
