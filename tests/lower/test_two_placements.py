"""One value that an operator reads twice, split for one operand and whole for another."""

from __future__ import annotations

import attrs
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autosp.errors import CheckError
from autosp.lower import Rank, check, lower
from autosp.parity import Simulation
from tests.lower.models import captured, misses, named, planned, reference
from tests.lower.test_faults import set_arg


def perceiver(x):
    """Attention of latents on themselves."""
    return F.scaled_dot_product_attention(x, x, x)


def product_of_scores(x):
    scores = torch.sigmoid(x @ x.mT)
    return (scores @ scores) @ x / 10


def added_product(x):
    return torch.baddbmm(x, torch.bmm(x, x.mT), x) / 10


def einsum(x):
    return torch.einsum("bid,bjd,bje->bie", x, x, x) / 10


@attrs.frozen
class Program:
    mix: object
    length: int = 10

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return Mixed(self.mix).train()

    def inputs(self) -> dict[str, torch.Tensor]:
        x, y = torch.randn(2, 2, self.length, 6, generator=torch.Generator().manual_seed(1))
        return {"x": x, "y": y}


class Mixed(nn.Module):
    def __init__(self, mix):
        super().__init__()
        self.mix, self.norm, self.out = mix, nn.LayerNorm(6), nn.Linear(6, 6)

    def forward(self, x, y):
        return (self.out(self.mix(self.norm(x))) - y).square().mean()


@pytest.mark.parametrize("mix", [perceiver, product_of_scores, added_product, einsum], ids=lambda f: f.__name__)
def test_it_is_exact(mix):
    program = Program(mix)
    graph, inputs = captured(program)
    for outputs, grads in Simulation(planned(program, 3), checked=True).run(inputs):
        assert not misses(named(graph, outputs, grads), reference(program))


def test_a_planted_exchange_of_the_two_is_caught():
    plan = planned(Program(perceiver), 3)
    local = lower(plan, Rank(1, "none"))
    check(plan, local)
    attention = next(n for n in local.graph.nodes if "scaled_dot_product" in str(n.target))
    query, key, *_ = attention.args
    assert query is not key
    set_arg(attention, 0, key)
    set_arg(attention, 1, query)
    with pytest.raises(CheckError):
        check(plan, local)
