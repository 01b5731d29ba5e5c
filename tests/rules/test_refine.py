"""Views in factors: whatever the shapes, splitting a factor and viewing commute."""

from __future__ import annotations

import math

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autosp.rules import project, splittable
from autosp.rules.refine import refine
from autosp.sharding import Split, assemble, local_shape, shard

s, t = sympy.symbols("s t", integer=True, positive=True)


@pytest.mark.parametrize(
    "before, after, operand, result",
    [
        ((2, 12), (2, 3, 4), ((0,), (1, 2)), ((0,), (1,), (2,))),
        ((2, 3, 4), (6, 4), ((0,), (1,), (2,)), ((0, 1), (2,))),
        ((2, 1, 3), (2, 3, 1, 1), ((0,), (), (1,)), ((0,), (1,), (), ())),
        ((6,), (6,), ((0,),), ((0,),)),
        ((), (1, 1), (), ((), ())),
        ((2, s, 32), (2, s, 8, 4), ((0,), (1,), (2, 3)), ((0,), (1,), (2,), (3,))),
        ((2, s, 97), (2 * s, 97), ((0,), (1,), (2,)), ((0, 1), (2,))),
        ((2, s), (2 * s,), ((0,), (1,)), ((0, 1),)),
        ((s, t), (s * t,), ((0,), (1,)), ((0, 1),)),
    ],
)
def test_common_refinement(before, after, operand, result):
    p = refine(before, after)
    assert p.operands == (operand,)
    assert p.results == (result,)
    assert set(p.kinds) <= {"pass"}


def test_what_cannot_be_refined_is_whole_and_the_rest_passes():
    p = refine((4, 5, 3, 7), (4, 3, 5, 7))
    assert [k for k in p.kinds if k == "pass"] == ["pass", "pass"]
    assert p.operands[0][0] == p.results[0][0]
    assert p.operands[0][3] == p.results[0][3]
    assert all(p.kinds[f] == "whole" for dim in (1, 2) for f in p.operands[0][dim])


def test_a_symbol_that_only_one_side_has_is_whole():
    p = refine((s, 4), (t, 4))
    assert p.kinds[p.operands[0][0][0]] == "whole"


def test_an_empty_tensor_is_whole():
    assert set(refine((0, 3), (3, 0)).kinds) == {"whole"}


def shapes():
    """Two shapes of equally many elements."""
    primes = st.lists(st.sampled_from([1, 2, 3, 4, 5]), min_size=1, max_size=5)

    def group(draw_from):
        sizes, cuts = draw_from
        out, run = [], 1
        for n, cut in zip(sizes, cuts, strict=True):
            run *= n
            if cut:
                out.append(run)
                run = 1
        return (*out, run)

    def pair(sizes):
        cuts = st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes))
        orders = st.permutations(sizes) | st.just(sizes)
        return st.tuples(
            st.tuples(st.just(sizes), cuts).map(group), orders.flatmap(lambda o: cuts.map(lambda c: group((o, c))))
        )

    return primes.flatmap(pair)


@settings(max_examples=200, deadline=None)
@given(shapes(), st.integers(2, 4))
def test_splitting_commutes_with_viewing(pair, p):
    before, after = pair
    x = torch.arange(math.prod(before)).reshape(before)
    found = refine(before, after)
    for dims, shape in ((found.operands[0], before), (found.results[0], after)):
        assert tuple(math.prod(found.sizes[f] for f in dim) for dim in dims) == shape
    for f in splittable(found):
        (i,), (o,) = project(found, f, 1, found.sizes[f], 1, p)
        assert isinstance(i, Split) and isinstance(o, Split)
        parts = [shard(x, i, p, r).reshape(local_shape(after, o, p, r)) for r in range(p)]
        assert torch.equal(assemble(parts, o), x.reshape(after))
