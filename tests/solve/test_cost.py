"""Seconds of operators: what masks leave out of an attention, counted on the mask itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autosp.engine.planning import planned
from autosp.sharding import Split
from autosp.solve import load_device
from autosp.solve.cost import flops, operator_seconds, pairs_seen
from autosp.spec import parse

SDPA = torch.ops.aten.scaled_dot_product_attention.default

SPEC = """
mesh    [dp: local, sp]
input   x  [batch@dp, seq@sp, hidden]
"""
LENGTH, HEADS, WIDTH = 256, 4, 16


class Layers(nn.Module):
    """One attention after the other, each with a mask of its own: a window, causal, causal by flag, or any."""

    def __init__(self, *windows: int | None, flag: bool = False):
        super().__init__()
        self.windows, self.flag = windows, flag
        self.qkv = nn.ModuleList(nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH) for _ in windows)

    def mask(self, window: int | None, length: int) -> torch.Tensor:
        i = torch.arange(length)
        apart = i[:, None] - i
        return (apart >= 0) & (apart < window) if window else apart >= 0

    def forward(self, x):
        for window, qkv in zip(self.windows, self.qkv, strict=True):
            q, k, v = (y.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for y in qkv(x).chunk(3, -1))
            mask = None if self.flag else self.mask(window, x.shape[1])
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.flag)
            x = x + y.transpose(1, 2).flatten(2)
        return x.square().mean()


def attentions(model: nn.Module):
    """The attentions of a plan for 4 ranks, with it."""
    plan, *_ = planned(model.train(), {"x": torch.randn(2, LENGTH, HEADS * WIDTH)}, parse(SPEC), sp=4)
    return plan, [op for op in plan.problem.ops if op.node.target is SDPA]


@pytest.mark.parametrize("flag", [False, True], ids=["a mask", "is_causal"])
def test_a_causal_attention_multiplies_the_pairs_that_its_mask_lets_through(flag: bool):
    model = Layers(None, flag=flag)
    plan, (op,) = attentions(model)
    pairs = int(model.mask(None, LENGTH).sum())
    assert pairs_seen(op) == pairs
    assert flops(op, plan.problem) == 2 * 2 * (2 * HEADS) * WIDTH * pairs  # two products of 2 x 4 heads


def test_a_rank_that_has_some_queries_alone_is_given_a_mask_and_works_out_all():
    _, (op,) = attentions(Layers(None))
    assert pairs_seen(op, Split(2, 1, LENGTH, 1)) == LENGTH * LENGTH


def test_a_window_multiplies_a_block_and_the_window_before_it():
    model = Layers(32)
    _, (op,) = attentions(model)
    seen = int(model.mask(32, LENGTH).sum())
    assert seen < pairs_seen(op) <= LENGTH * 2 * 32 < LENGTH * LENGTH / 2


def test_attentions_that_differ_in_their_mask_alone_are_priced_each_for_itself():
    plan, ops = attentions(Layers(32, None, 32))
    device = load_device("h100-80gb")
    each = [operator_seconds(op, plan.problem, device) for op in ops]
    assert each[0] == each[2] < each[1]
    whole = (
        operator_seconds(op, plan.problem, plan.device, next(iter(way.needs), None)) * way.share
        for op, way in plan.chosen.items()
    )
    assert plan.compute_seconds == pytest.approx(sum(whole))
