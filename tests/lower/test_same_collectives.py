"""Ranks make the same collectives in the same order, in a joint graph's forward part and in its backward part.

A partitioner runs in the forward what no gradient reaches. Were a rank's zero gradient a constant, the collective that
completes it would be called in that rank's forward, and in the others' backward: they would wait for each other.
"""

from __future__ import annotations

import pytest
import torch
from torch import fx

from autosp.engine.inner import compiler_of, inner_for
from autosp.engine.traced import planned
from autosp.lower import Rank, lower
from autosp.parity.judging import judge
from autosp.parity.messages import page
from autosp.parity.trial import Trial
from autosp.recompute import kinds
from autosp.recompute.trace import trace_joint
from autosp.spec import parse
from tests.execute import data, odd, own_functions
from tests.recompute.ranks import silent_group

P = 4
PROGRAMS = {"features of an image": data.Features, "a gradient from the backward": own_functions.AuxiliaryLoss}
LENGTHS = {"uneven": 10, "some ranks hold nothing": 3}

Calls = tuple[str, ...]


def collectives(model: torch.nn.Module, length: int, chosen: bool = True) -> list[tuple[Calls, Calls]]:
    """Of every rank: those of the forward part and those of the backward part, in order.

    By the decompositions of Inductor, which make a constant of `zeros_like`, or of what is chosen in its place.
    """
    torch._dynamo.reset()
    ids = torch.arange(2 * length).view(2, length)
    plan, _, examples = planned(model.train(), {"idx": ids, "targets": ids}, parse(odd.SPEC), sp=P)
    found, inner = [], inner_for("inductor", plan) if chosen else "inductor"
    with silent_group(P) as group:
        for rank in range(P):
            joint, _ = trace_joint(lower(plan, Rank(rank, group)), examples, compiler_of(inner, ()).decompositions())
            found.append((called(joint.forward), called(joint.backward)))
    return found


def called(part: tuple[fx.Node, ...]) -> Calls:
    return tuple(map(kinds.name_of, filter(kinds.is_collective, part)))


@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("model", PROGRAMS.values(), ids=PROGRAMS)
def test_ranks_call_the_same_collectives_in_both_parts(model: type[torch.nn.Module], length: int):
    first, *others = collectives(model(), length)
    assert all(first) and others == [first] * (P - 1)


def test_what_only_moves_needs_no_other_compiler_where_a_rank_holds_nothing():
    """Inductor leaves out of a `cat` what is empty: the rank's gradient would be a constant."""
    first, *others = collectives(data.Features(), 3, chosen=False)
    assert all(first) and others == [first] * (P - 1)


@pytest.mark.slow
def test_ranks_that_hold_nothing_meet_the_others_in_real_processes():
    """With a LayerNorm, whose gradients of nothing are constants to Inductor."""
    name = "tests.execute.own_functions:AuxiliaryLoss"
    trial = Trial(name, sp=P, spec=odd.SPEC, lengths=(3,), steps=2, lr=0.1, backend="inductor")
    verdict = judge(trial, simulate=False)
    assert verdict.exact, page(verdict)
