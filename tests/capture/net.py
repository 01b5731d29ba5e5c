"""A small module that writes in place, and what its captured graph is held to."""

from __future__ import annotations

import torch
from torch import nn

from autosp.passes import global_graph
from autosp.rules.inplace import is_mutable


class Net(nn.Module):
    """A linear layer, then a function of its result (and of the buffer `kept`, where it takes one)."""

    def __init__(self, body):
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.register_buffer("kept", torch.zeros(8))
        self.body = body

    def forward(self, x):
        return self.body(self, x, self.inner(x))


def targets(graph: torch.fx.GraphModule) -> list:
    return [n.target for n in graph.graph.nodes if n.op == "call_function"]


def outcome(function, parameters, *args, **kwargs):
    """The first result's value, and the gradients of its sum."""
    out = function(*args, **kwargs)
    out = out[0] if isinstance(out, (tuple, list)) else out
    grads = torch.autograd.grad(out.double().sum(), parameters, allow_unused=True) if out.requires_grad else ()
    return out.detach(), [None if g is None else g.clone() for g in grads]


def concrete(x):
    """A graph input to run with: a size as a number."""
    return int(x) if isinstance(x, torch.SymInt) else x


def assert_same_bits(model: nn.Module, *, dynamic: bool = False, sizes=(3, 4)) -> torch.fx.GraphModule:
    """The captured graph has no in-place operator, and gives the bits that the model gives in eager mode."""
    x = torch.randn(*sizes, 8, generator=torch.Generator().manual_seed(0))
    captured, inputs = global_graph(model, {"x": x}, dynamic=dynamic)
    assert not any(is_mutable(t) for t in targets(captured.graph))
    want, want_grads = outcome(model, list(model.parameters()), x.clone())
    got, got_grads = outcome(captured.graph, list(model.parameters()), *map(concrete, inputs))
    assert torch.equal(got, want)
    for g, w in zip(got_grads, want_grads, strict=True):
        assert (g is None or not g.any()) if w is None else torch.equal(g, w)
    return captured.graph
