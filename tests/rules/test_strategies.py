"""From factors to placements and back."""

from __future__ import annotations

import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from autosp.rules import Projection, factor_of, project
from autosp.rules.strategies import splittable
from autosp.sharding import PARTIAL, Split

LINEAR = Projection(
    operands=(((0,), (1,), (2,)), ((3,), (2,)), ((3,),)),
    results=(((0,), (1,), (3,)),),
    sizes=(2, 6, 4, 5),
    kinds=("pass", "pass", "reduce", "pass"),
    names=("b", "s", "i", "o"),
    once=frozenset({2}),
)


def test_a_passing_factor_splits_who_has_it():
    operands, results = project(LINEAR, 1, 1, 6, 1, 2)
    assert operands == (Split(1, 1, 2, 3), None, None)
    assert results == (Split(1, 1, 2, 3),)


def test_a_summed_factor_gives_partial_sums_and_once_operands():
    operands, results = project(LINEAR, 2, 1, 4, 1, 4)
    assert operands == (Split(2, 1, 4, 1), Split(1, 1, 4, 1), PARTIAL)
    assert results == (PARTIAL,)


def test_a_factor_inside_a_composite_dim():
    p = Projection((((0, 1), (2,)),), (((0,), (1,), (2,)),), (4, 2, 3), ("pass",) * 3, ("k", "g", "d"))
    assert project(p, 0, 1, 4, 1, 2) == ((Split(0, 1, 2, 4),), (Split(0, 1, 2, 2),))
    assert project(p, 1, 1, 2, 1, 2) == ((Split(0, 4, 2, 1),), (Split(1, 1, 2, 1),))
    assert factor_of(p, 0, Split(0, 1, 2, 4)) == (0, 1, 2, 2)
    assert factor_of(p, 0, Split(0, 4, 2, 1)) == (1, 1, 2, 1)
    assert factor_of(p, -1, Split(1, 1, 2, 1)) == (1, 1, 2, 1)


def test_a_split_across_factors_is_in_none():
    p = Projection((((0, 1),),), (((0,), (1,)),), (3, 2), ("pass",) * 2, ("a", "b"))
    assert factor_of(p, 0, Split(0, 1, 2, 3)) is None
    assert factor_of(p, 0, Split(0, 1, 6, 1)) is None


def test_symbolic_sizes():
    s = sympy.Symbol("s", integer=True, positive=True)
    p = Projection((((0,), (1,)),), (((0, 1),),), (2, s), ("pass",) * 2, ("b", "s"))
    assert project(p, 1, 1, s, 1, 4) == ((Split(1, 1, s, 1),), (Split(0, 2, s, 1),))
    assert factor_of(p, -1, Split(0, 2, s, 1)) == (1, 1, s, 1)
    assert factor_of(p, 0, Split(1, 1, s, 1)) == (1, 1, s, 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(2, 6), min_size=1, max_size=4), st.integers(2, 4), st.data())
def test_there_and_back(sizes, p, data):
    order = tuple(range(len(sizes)))
    projection = Projection(
        (tuple((f,) for f in order),), ((order,),), tuple(sizes), ("pass",) * len(sizes), ("f",) * len(sizes)
    )
    f = data.draw(st.sampled_from(splittable(projection)))
    outer = data.draw(st.sampled_from([d for d in range(1, sizes[f] + 1) if sizes[f] % d == 0]))
    (operand,), (result,) = project(projection, f, outer, sizes[f] // outer, 1, p)
    for index, split in ((0, operand), (-1, result)):
        found = factor_of(projection, index, split)
        assert found is not None and found[0] == f
        assert project(projection, *found, p) == ((operand,), (result,))
