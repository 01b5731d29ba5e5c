"""autograd.Functions with a backward of their own: split where both of their graphs allow it, else whole or refused."""

from __future__ import annotations

import pytest

from autosp.cli._launch import launch
from autosp.cli._trial import Trial
from autosp.cli._verdict import of_outcomes, references
from autosp.cli.parity import judge, page
from autosp.spec import parse
from tests.execute import own_functions as own

EXACT = (
    "Activation Checkpointed StraightThrough ClippedGradient ClippedGradientNorm ScaledGradient AuxiliaryLoss OwnLinear "
    "FrozenLinear AmpLinear OwnNorm Rotary RunningSum Centring FusedLoss FusedLossInChunks"
).split()
BASE = Trial("", spec=own.SPEC, lr=0.1, labels="prompt")


def trial(name: str, **fields) -> Trial:
    return Trial(f"tests.execute.own_functions:{name}", **{"spec": own.SPEC, "lr": 0.1, "labels": "prompt", **fields})


@pytest.mark.parametrize("name", EXACT)
def test_gradients_are_those_of_the_function_itself(name: str):
    """Nine tokens over two ranks: uneven, and the first rank has no valid label."""
    verdict = judge(trial(name, lengths=(9,)), simulate=True)
    assert verdict.exact, page(verdict)
