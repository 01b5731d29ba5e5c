"""Faults planted in the bodies of autograd.Functions, as one rank runs them: the checker alone catches each."""

from __future__ import annotations

import contextlib

import attrs
import pytest
import torch

from autosp.capture.own import own_of
from autosp.engine.traced import planned
from autosp.errors import CheckError, PlanError
from autosp.lower import Rank, check, convert, lower
from autosp.lower.checker import Typed
from autosp.lower.own import local_own
from autosp.lower.own_check import own_faults
from autosp.sharding import INVARIANT, REPLICATE, Sharding
from autosp.spec import parse
from tests.execute import own_functions as own


def program(name: str):
    """A plan over two ranks, the local graph of the second, and the call of its first autograd.Function. Queries stay
    split along the sequence: what is done to them is too."""
    ids = torch.zeros(2, 9, dtype=torch.long)
    spec = attrs.evolve(parse(own.SPEC), attention="gather")
    plan = planned(getattr(own, name)(), {"idx": ids, "targets": ids}, spec, sp=2)[0]
    local = lower(plan, Rank(1, "none"))
    return plan, local, next(n for n in local.graph.nodes if own_of(n) is not None)


def changes(body, kinds: tuple[str, str]):
    return [n for n in body.graph.nodes if n.target is convert and (n.args[1][0].word, n.args[2][0].word) == kinds]


def left_out(body, kinds: tuple[str, str]) -> None:
    """A change of placement is not made."""
    node = changes(body, kinds)[0]
    next(iter(node.users)).replace_all_uses_with(node.args[0][0])
    body.recompile()


def gradients(body, new) -> None:
    out = body.graph.output_node()
    out.args = (new(*out.args[0]),)
    body.recompile()


PLANTED = {
    "a count that is not completed": ("FusedLoss", lambda o: left_out(o.forward, ("partial", "replicate"))),
    "a gradient that every rank adds": ("AuxiliaryLoss", lambda o: left_out(o.backward, ("replicate", "partial"))),
    # of what PyTorch's releases capture, the first that has a cut
    "a cut that is not made": ("Rotary FusedLossInChunks", lambda o: left_out(o.forward, ("replicate", "split"))),
    "gradients in another order": ("OwnNorm", lambda o: gradients(o.backward, lambda a, b: (b, a))),
    "a gradient of another value": ("AuxiliaryLoss", lambda o: gradients(o.backward, lambda a, b: (a, a))),
}


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_fault_is_caught(what: str):
    names, plant = PLANTED[what]
    for name in names.split():
        plan, local, call = program(name)
        check(plan, local)
        before = str(own_of(call).forward.graph), str(own_of(call).backward.graph)
        with contextlib.suppress(IndexError):  # nothing of the kind in it
            plant(own_of(call))
        if before != (str(own_of(call).forward.graph), str(own_of(call).backward.graph)):
            break
    else:
        pytest.fail("the fault found nothing to edit")
    with pytest.raises(CheckError, match=r"autograd\.Function|in a body"):
        check(plan, local)


def test_bodies_on_global_sizes_are_caught():
    plan, local, call = program("OwnLinear")
    op = call.meta["autosp_op"]
    call.target = op.own.own.called("whole")
    with pytest.raises(CheckError):
        check(plan, local)


def test_a_lost_backward_is_caught():
    plan, local, call = program("Activation")
    forward = own_of(call).forward
    call.target = lambda *args: forward(*args)[0]
    with pytest.raises(CheckError, match="has lost its backward"):
        check(plan, local)


def test_a_backward_that_is_not_linear_is_never_given_partial_sums():
    """Whole on every rank is right with equal gradients alone: neither is another one made, nor would it pass."""
    plan, _, call = program("ClippedGradientNorm")
    (op,) = [op for op in plan.chosen if op.own is not None]
    assert plan.chosen[op].needs == (Sharding.alone("sp", INVARIANT),)
    where = Rank(1, "none").on(plan.mesh)
    parts, equal = (Sharding.alone("sp", kind) for kind in (REPLICATE, INVARIANT))
    with pytest.raises(PlanError, match="cannot be split as planned"):
        local_own(op, (parts,), (parts,), where)
    given = Typed(op.operands[0].id, parts, True)
    assert not list(own_faults(op, call, [attrs.evolve(given, sharding=equal)], (equal,), plan, where))
    ((what, _),) = own_faults(op, call, [given], (parts,), plan, where)
    assert what == "aten.linalg_vector_norm.default in a body has no strategy for partial"
