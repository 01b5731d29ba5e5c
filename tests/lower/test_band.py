"""Windowed attention as a band: no mask of the whole sequence, the unsharded program's numbers."""

from __future__ import annotations

import attrs
import pytest
import torch
from torch import fx, nn

from autosp.engine.traced import planned
from autosp.lower import Rank, band, check, lower
from autosp.lower.windows import BAND, Band
from autosp.parity.judging import judge
from autosp.parity.messages import page
from autosp.parity.trial import Trial
from autosp.spec import load
from tests.execute.families import build

SDPA = torch.ops.aten.scaled_dot_product_attention.default

MISTRAL = Trial("tests.execute.families:MistralForCausalLM", sp=2, lengths=(32,), lr=0.1)
TRIALS = {
    "mistral": MISTRAL,
    "length that the window does not divide": attrs.evolve(MISTRAL, lengths=(37,)),
    "a last block of one query": attrs.evolve(MISTRAL, lengths=(33,)),
    "3 ranks": attrs.evolve(MISTRAL, sp=3, lengths=(29,)),
    "gemma3, local and global layers": attrs.evolve(MISTRAL, model="tests.execute.families:Gemma3ForCausalLM"),
    "padding keeps the mask": attrs.evolve(MISTRAL, mask="right"),
}


@pytest.mark.parametrize("name", TRIALS)
def test_numbers_of_the_unsharded_program(name: str) -> None:
    verdict = judge(TRIALS[name], simulate=True)
    assert verdict.exact, page(verdict)


def local_graph(length: int = 64, **inputs) -> fx.GraphModule:
    model, spec = build("MistralForCausalLM").train(), load("mistral")  # a window of 8
    ids = torch.zeros(1, length, dtype=torch.long)
    plan, *_ = planned(model, {"input_ids": ids, "labels": ids, **inputs}, spec, sp=2)
    local = lower(plan, Rank(0, "none"))
    check(plan, local)
    return local


def test_no_value_is_as_large_as_the_mask() -> None:
    length, local = 64, local_graph(64)
    assert band(local) == 2
    attentions = local.graph.find_nodes(op="call_function", target=SDPA)
    assert len(attentions) == 2 * length // 8
    sizes = _mask_sizes(local, length)
    assert sizes and max(sizes) == 8 * 15  # a block by a block and the window before it


def _mask_sizes(local: fx.GraphModule, length: int) -> list[int]:
    """Elements of every bool value with rows and columns that the second block's mask is made of."""
    found = []

    class Run(fx.Interpreter):
        def run_node(self, n):
            if n.op == "output":
                return super().run_node(n)
            out = super().run_node(n)
            if isinstance(out, torch.Tensor) and out.dtype is torch.bool and out.dim() >= 2:
                found.append(out.numel())
            return out

    wanted = local.graph.find_nodes(op="call_function", target=SDPA)[1].args[3]
    keep = fx.Graph()
    keep.output(_copy(keep, wanted, {}))
    Run(fx.GraphModule(local, keep)).run()
    return found


def _copy(graph: fx.Graph, node: fx.Node, done: dict) -> fx.Node:
    for n in node.all_input_nodes:
        if n not in done:
            _copy(graph, n, done)
    done[node] = graph.node_copy(node, done.__getitem__)
    return done[node]


def test_a_second_time_changes_nothing() -> None:
    local = local_graph()
    assert band(local) == 2
    text = str(local.graph)
    assert band(local) == 0 and str(local.graph) == text


@pytest.mark.parametrize("length, blocks", [(64, [8] * 8), (37, [8, 8, 8, 8, 5]), (15, [8, 7]), (8, [8])])
def test_blocks_are_at_least_a_window(length: int, blocks: list[int]) -> None:
    assert Band(8, length, torch.device("cpu")).blocks == blocks


def test_long_sequences_have_few_blocks() -> None:
    blocks = Band(1024, 131072, torch.device("cpu")).blocks
    assert len(blocks) == 32 and sum(blocks) == 131072


def test_a_mask_of_data_stays() -> None:
    local = local_graph(attention_mask=torch.ones(1, 64, dtype=torch.long))
    assert not any(BAND in n.meta for n in local.graph.nodes) and band(local) == 0


class Dropping(nn.Module):
    """An attention with a window and dropout: another order of draws would be another program."""

    def forward(self, x):
        at = torch.arange(x.shape[-2])
        apart = at[:, None] - at[None, :]
        mask = (apart >= 0) & (apart < 4)
        return nn.functional.scaled_dot_product_attention(x, x, x, mask, dropout_p=0.5).sum()


def test_dropout_keeps_the_mask() -> None:
    from autosp.spec import parse

    spec = parse("mesh [sp]\ninput x [batch, heads, seq@sp, dim]\noutput loss []\n")
    plan, *_ = planned(Dropping(), {"x": torch.randn(1, 4, 16, 4, requires_grad=True)}, spec, sp=2)
    local = lower(plan, Rank(0, "none"))
    assert any(BAND in n.meta for n in local.graph.nodes) and band(local) == 0
