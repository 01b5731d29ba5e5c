"""flex_attention with its heads split: forward in real processes; the CPU has no backward of it."""

from __future__ import annotations

import pytest
import torch

from autosp.parity.judging import judge
from autosp.parity.launch import errors, launch
from autosp.parity.messages import page
from autosp.parity.trial import Trial
from tests.execute import flex


@pytest.mark.parametrize("world", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_the_forward_with_heads_split(world: int) -> None:
    """3 kv heads: on 2 ranks one holds two groups of query heads, the other one."""
    items = [("eager", False), ("aot_eager", False), ("aot_eager", True)]
    for outcomes in launch(world, "tests.execute.flex:forward", items, deepspeed=False):
        assert not errors(outcomes), errors(outcomes)
        for expected, found, plan in (outcome.value for outcome in outcomes):
            assert found == pytest.approx(expected, rel=1e-6)
            # what attention gives travels with its heads split, whole or merged with the dim of each
            assert "all_to_all" in plan and any(f" {n}@sp" in plan for n in (flex.HEADS, flex.HEADS * 4))


@pytest.mark.parametrize("broadcast", [False, True])
def test_written_out_it_is_the_same(broadcast: bool) -> None:
    with torch.no_grad():
        losses = [float(flex.Flexible(broadcast, written_out)(**flex.batch())) for written_out in (False, True)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_backward_of_what_is_written_out() -> None:
    trial = Trial("tests.execute.flex:written_out", flex.SPEC, sp=3, lengths=(flex.LENGTH,), lr=0.1)
    verdict = judge(trial, simulate=True)
    assert verdict.exact, page(verdict)
