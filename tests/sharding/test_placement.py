"""The arithmetic of splits: parts and wholes, uneven units, canonical forms, symbolic sizes."""

import itertools

import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autosp.sharding import (
    INVARIANT,
    PARTIAL,
    REPLICATE,
    Split,
    as_size,
    assemble,
    count,
    divide,
    local_shape,
    make_split,
    shard,
    start,
)  # fmt: skip

RELAXED = settings(deadline=None)  # a loaded machine is no failure
RANKS = st.integers(1, 6)
SMALL = st.integers(1, 4)


@st.composite
def splits(draw):
    """A shape, a split of one of its dims, and a number of ranks."""
    outer, units, inner = draw(SMALL), draw(st.integers(1, 13)), draw(SMALL)
    shape = draw(st.lists(SMALL, min_size=0, max_size=3))
    dim = draw(st.integers(0, len(shape)))
    shape.insert(dim, outer * units * inner)
    return tuple(shape), Split(dim, outer, units, inner), draw(RANKS)


@RELAXED
@given(splits())
def test_parts_put_together_are_the_whole(case):
    shape, split, p = case
    x = torch.arange(sympy.prod(shape)).reshape(shape)
    parts = [shard(x, split, p, r) for r in range(p)]
    assert torch.equal(assemble(parts, split), x)
    assert [tuple(part.shape) for part in parts] == [local_shape(shape, split, p, r) for r in range(p)]


@RELAXED
@given(splits())
def test_local_sizes_sum_to_the_whole_and_differ_by_one_unit(case):
    shape, split, p = case
    sizes = [local_shape(shape, split, p, r)[split.dim] for r in range(p)]
    assert sum(sizes) == shape[split.dim]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] in (0, split.outer * split.inner)


@RELAXED
@given(st.integers(0, 40), RANKS)
def test_units_are_dealt_in_order(units, p):
    starts = [start(units, p, r) for r in range(p)] + [units]
    assert [b - a for a, b in itertools.pairwise(starts)] == [count(units, p, r) for r in range(p)]
    assert starts[0] == 0


@RELAXED
@given(splits())
def test_the_canonical_form_deals_the_same_parts(case):
    shape, split, p = case
    canonical = make_split(split.dim, split.outer, split.units, split.inner, p)
    x = torch.arange(sympy.prod(shape)).reshape(shape)
    for r in range(p):
        assert torch.equal(shard(x, canonical, p, r), shard(x, split, p, r))
    assert make_split(canonical.dim, canonical.outer, canonical.units, canonical.inner, p) == canonical
    assert (canonical.units == p) == (split.units % p == 0)


@RELAXED
@given(splits(), SMALL)
def test_splits_that_deal_alike_have_one_canonical_form(case, times):
    """Whole groups of heads, or all of a group's heads: the same where ranks divide the groups."""
    _, split, p = case
    coarse = make_split(split.dim, split.outer, p * times, split.inner, p)
    fine = make_split(split.dim, split.outer, p, times * split.inner, p)
    assert coarse == fine


def test_values_that_are_not_split_keep_their_shape():
    x = torch.randn(3, 4)
    for kind in (REPLICATE, INVARIANT, PARTIAL):
        assert shard(x, kind, 2, 1) is x
        assert local_shape((3, 4), kind, 2, 1) == (3, 4)
    assert torch.equal(assemble([x, x], REPLICATE), x)
    assert torch.equal(assemble([x, x], INVARIANT), x)
    assert torch.equal(assemble([x, x], PARTIAL), 2 * x)


SEQ, BATCH = sympy.Symbol("s0", integer=True, positive=True), sympy.Symbol("s1", integer=True, positive=True)


@RELAXED
@given(st.integers(1, 50), RANKS, SMALL)
def test_symbolic_sizes_agree_with_numbers(length, p, inner):
    for r in range(p):
        for symbolic, number in (
            (count(SEQ, p, r), count(length, p, r)),
            (start(SEQ, p, r), start(length, p, r)),
            (
                local_shape((2, inner * SEQ), Split(1, 1, SEQ, inner), p, r)[1],
                local_shape((2, inner * length), Split(1, 1, length, inner), p, r)[1],
            ),
        ):
            assert as_size(sympy.sympify(symbolic).xreplace({SEQ: sympy.Integer(length)})) == number


@RELAXED
@given(st.integers(1, 60), st.integers(1, 12))
def test_divide_is_exact_or_nothing(a, b):
    assert divide(a * b, b) == a
    assert divide(a, b) == (a // b if a % b == 0 else None)


def test_divide_of_symbols_holds_for_every_value():
    assert divide(SEQ * BATCH, SEQ) == BATCH
    assert divide(6 * SEQ, 3) == 2 * SEQ
    assert divide(SEQ, 2) is None
    assert divide(SEQ + 1, SEQ) is None
    assert divide(SEQ * BATCH + SEQ, SEQ) == BATCH + 1
    assert divide(SEQ, SEQ) == 1


def test_as_size_gives_numbers_where_they_are_known():
    assert as_size(sympy.Integer(4)) == 4 and isinstance(as_size(sympy.Integer(4)), int)
    assert as_size((SEQ + 1) * 2) == as_size(2 * SEQ + 2)
    assert as_size(SEQ - SEQ + 3) == 3


def test_a_split_reads_as_what_it_deals():
    assert repr(Split(1, 1, 8, 1)) == "split(1: <8>)"
    assert repr(Split(0, 2, 8, 4)) == "split(0: 2x<8>x4)"
