"""Masks that are only causal are told from all others."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autosp.capture.masks import CAUSAL
from autosp.parity.judging import judge
from autosp.parity.messages import page
from autosp.parity.trial import Trial
from autosp.passes import global_graph
from tests.execute.families import FAMILIES, build

SDPA = torch.ops.aten.scaled_dot_product_attention.default

SEQ = 12


class Attention(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, x, data):
        return F.scaled_dot_product_attention(x, x, x, attn_mask=self.mask(torch.arange(SEQ), data)).sum()


def query(at):
    return at[None, None, :, None]


def key(at):
    return at[None, None, None, :]


def ones(at):
    return at.new_ones(1, 1, SEQ, SEQ, dtype=torch.bool)


ONLY_CAUSAL = {
    "at most": lambda at, data: key(at) <= query(at),
    "at least": lambda at, data: query(at) >= key(at),
    "less than the next": lambda at, data: key(at) < query(at) + 1,
    "both begin later": lambda at, data: key(at + 5) <= query(at + 5),
    "twice as far": lambda at, data: (key(at) <= query(at)) & (key(at) - 1 <= query(at)),
    "a window that binds nothing": lambda at, data: (key(at) <= query(at)) & (key(at) > query(at) - SEQ),
    "expanded": lambda at, data: (key(at) <= query(at)).expand(2, 3, SEQ, SEQ),
    "with ones": lambda at, data: ones(at) & (key(at) <= query(at)).to(torch.bool),
}
MORE_THAN_CAUSAL = {
    "strictly before": lambda at, data: (key(at) < query(at)) | (key(at) == query(at)) & (query(at) > 0),
    "the other way": lambda at, data: key(at) >= query(at),
    "one ahead": lambda at, data: key(at) <= query(at) + 1,
    "one behind": lambda at, data: (key(at) <= query(at) - 1).logical_or(query(at) == key(at)),
    "a window": lambda at, data: (key(at) <= query(at)) & (key(at) > query(at) - 8),
    "every other": lambda at, data: key(at) * 2 <= query(at),
    "everything": lambda at, data: ones(at),
    "data": lambda at, data: (key(at) <= query(at)) & data[:, None, None, :],
    "added": lambda at, data: torch.where(key(at) <= query(at), 0.0, -1e4),
    "sliced": lambda at, data: key(at) <= query(at.roll(1)),
}


def marked(mask) -> list[bool]:
    x, data = torch.randn(2, 3, SEQ, 4), torch.ones(2, SEQ, dtype=torch.bool)
    captured, _ = global_graph(Attention(mask), {"x": x, "data": data})
    return [CAUSAL in n.meta for n in captured.graph.graph.find_nodes(op="call_function", target=SDPA)]


@pytest.mark.parametrize("name", ONLY_CAUSAL)
def test_a_causal_mask_is_found(name: str) -> None:
    mask = ONLY_CAUSAL[name](torch.arange(SEQ), None)
    assert torch.equal(mask.expand(2, 3, SEQ, SEQ), torch.ones(2, 3, SEQ, SEQ).tril().bool()), "the test's own mask"
    assert marked(ONLY_CAUSAL[name]) == [True]


@pytest.mark.parametrize("name", MORE_THAN_CAUSAL)
def test_no_other_mask_is_taken_for_one(name: str) -> None:
    assert marked(MORE_THAN_CAUSAL[name]) == [False]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel", "Olmo2ForCausalLM"])
def test_the_mask_that_transformers_builds_is_found(name: str, dynamic: bool) -> None:
    assert name in FAMILIES
    model, ids = build(name).train(), torch.zeros(2, 16, dtype=torch.long)
    model.config.use_cache = False
    from autosp.engine.step import prepare

    prepare(model)
    captured, _ = global_graph(model, {"input_ids": ids, "labels": ids}, dynamic=dynamic)
    nodes = captured.graph.graph.find_nodes(op="call_function", target=SDPA)
    assert len(nodes) == 2 and all(CAUSAL in n.meta for n in nodes)
    padded, _ = global_graph(model, {"input_ids": ids, "labels": ids, "attention_mask": ids}, dynamic=dynamic)
    assert not any(CAUSAL in n.meta for n in padded.graph.graph.find_nodes(op="call_function", target=SDPA))


@pytest.mark.parametrize("sp", [2, 12])
def test_no_rank_makes_the_mask_where_it_has_all_queries(sp: int) -> None:
    """With more ranks than heads the queries are split, and the mask stays."""
    from autosp.engine.planning import planned
    from autosp.lower import Rank, check, lower
    from autosp.parity.trial import batches
    from autosp.parity.trial import build as build_trial
    from autosp.spec import load

    trial = Trial("tests.execute.families:LlamaForCausalLM", "llama", sp=sp, lengths=(24,), lr=0.1)
    model, _ = build_trial(trial)
    plan, *_ = planned(model, batches(trial, load("llama"), model, None)(0, 0, 0), load("llama"), sp=sp)
    local = lower(plan, Rank(0, "none"))
    check(plan, local)
    calls = local.graph.find_nodes(op="call_function", target=SDPA)
    squares = [n for n in local.graph.nodes if getattr(n.target, "_opname", "") in ("le", "__and__")]
    assert all(n.args[3:6:2] == (None, True) for n in calls) == (sp == 2)
    assert bool(squares) == (sp == 12)
    verdict = judge(trial, simulate=True)
    assert verdict.exact, page(verdict)
