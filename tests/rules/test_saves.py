"""`saves` of a rule against what autograd really keeps for the backward, on the operators of a Llama.

The solver prices what a plan saves: a tensor that autograd keeps and no rule names would be free.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import fx

from autosp.passes import global_graph
from autosp.rules import Projection, default_rules, op_name, tensor_args, tensor_results

pytestmark = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")

# What autograd keeps that is neither operand nor result: one number a row, or a seed.
INTERNAL = {
    "aten.scaled_dot_product_attention.default": "the log of the sum of exponentials, one a query",
    "aten.cross_entropy_loss.default": "the log-probabilities: the logits in another form, and of their size",
}
# What a rule says is saved and autograd, on the CPU, does not keep for these calls.
UNUSED = {
    "aten.cross_entropy_loss.default": "the logits themselves: their log-probabilities are kept in their place",
    "aten.div.Tensor": "the dividend, where the divisor is a number of tokens and has no gradient",
}


@pytest.fixture(scope="module")
def llama() -> fx.GraphModule:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, use_cache=False,
    )  # fmt: skip
    ids = torch.randint(0, 64, (2, 16))
    captured, _ = global_graph(LlamaForCausalLM(config), {"input_ids": ids, "labels": ids})
    return captured.graph


def kept(target, args, kwargs) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """The operands, the results, and what autograd keeps of a call."""
    found: list[torch.Tensor] = []

    def pack(t: torch.Tensor) -> torch.Tensor:
        found.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        results = tensor_results(target(*args, **kwargs))
    return tensor_args(args, kwargs), results, found


def said(projection: Projection, operands: list, results: list) -> set[int]:
    """The storages of what the rule says is saved."""
    names = [*results] if -1 in projection.saves else []
    return {t.untyped_storage().data_ptr() for t in [*names, *(operands[i] for i in projection.saves if i >= 0)]}


def real(node: fx.Node, draw: torch.Generator):
    """A call's arguments as tensors with values; floating ones want gradients."""

    def one(n: fx.Node):
        val = n.meta["val"]
        if not isinstance(val, torch.Tensor):
            return val
        if val.dtype.is_floating_point:
            return torch.randn(val.shape, generator=draw).to(val.dtype).requires_grad_()
        return torch.ones(val.shape, dtype=val.dtype)

    return fx.map_arg((node.args, node.kwargs), one)


def differentiable(graph: fx.GraphModule) -> list[fx.Node]:
    """One call of each operator on floating values, for each of its shapes."""
    found: dict[tuple, fx.Node] = {}
    for node in graph.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            floats = [n for n in node.all_input_nodes if n.meta["val"].is_floating_point()]
            if floats:
                found.setdefault((node.target, *(tuple(n.meta["val"].shape) for n in node.all_input_nodes)), node)
    return list(found.values())


def test_what_autograd_keeps_a_rule_says_is_saved(llama: fx.GraphModule):
    book, draw, compared, unsaid, operators = default_rules(), torch.Generator().manual_seed(0), 0, {}, set()
    for node in differentiable(llama):
        args, kwargs = real(node, draw)
        operands, results, found = kept(node.target, args, kwargs)
        projection = book.bind(node.target, args, kwargs, results)
        name, allowed = op_name(node.target), said(projection, operands, results)
        own = {t.untyped_storage().data_ptr() for t in [*operands, *results]}
        operators.add(name)
        for t in found:
            compared += t.dim() > 0
            if t.untyped_storage().data_ptr() not in allowed and t.dim() > 0:
                inside = t.untyped_storage().data_ptr() not in own
                unsaid.setdefault(name, set()).add("internal" if inside else "operand or result")
    assert unsaid == {name: {"internal"} for name in INTERNAL if name in operators}
    assert compared > 20 and len(operators) > 15


def test_what_a_rule_says_is_saved_autograd_keeps(llama: fx.GraphModule):
    book, draw, extra = default_rules(), torch.Generator().manual_seed(0), {}
    for node in differentiable(llama):
        args, kwargs = real(node, draw)
        operands, results, found = kept(node.target, args, kwargs)
        projection = book.bind(node.target, args, kwargs, results)
        have = {t.untyped_storage().data_ptr() for t in found}
        missing = said(projection, operands, results) - have
        if missing and any(r.requires_grad for r in results):
            extra[op_name(node.target)] = projection.saves
    assert extra.keys() == UNUSED.keys()
