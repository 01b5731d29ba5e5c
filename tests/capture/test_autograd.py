"""Which values have a gradient: what the solver says of a graph is what PyTorch does with it."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from autosp.capture import tensors_of
from autosp.passes import global_graph
from autosp.rules import default_rules
from autosp.sharding import MeshAxis
from autosp.solve.problem import build
from tests.capture.net import Net, concrete


def _made_like(self, x, a):
    made = [torch.zeros_like(a), torch.ones_like(a), torch.full_like(a, 2.0), torch.empty_like(a).zero_()]
    drawn = [torch.rand_like(a), torch.randn_like(a), torch.randint_like(a, 3)]
    new = [a.new_zeros(3, 4, 8), a.new_ones(3, 4, 8), a.new_full((3, 4, 8), 1.0), a.new_tensor(1.0)]
    return a + sum((*made, *drawn, *new))


def _only_as_a_pattern(self, x, a):
    return a + x.type_as(a) + x[:, :1].expand_as(a) + x.view_as(a) + x.to(a) + x.flatten().reshape_as(a)


def _casts_and_views(self, x, a):
    low = a.to(torch.bfloat16).float()
    same = a.to(torch.float32).contiguous().view(-1).reshape(3, 4, 8)
    left, right = low.split(4, dim=-1)
    return torch.cat([right, left], -1) + same + a.long() + a.detach() + torch.complex(a, x).abs()


def _steps(self, x, a):
    values, places = a.topk(2, dim=-1)
    return a.sign() + a.floor() + (a > 0).float() * a + values.sum() + places.sum() + (a // 2) + a.argmax()


def _without_gradients(self, x, a):
    with torch.no_grad():
        same, other = a.contiguous(), a * 2
    return a + same + other


BODIES = [_made_like, _only_as_a_pattern, _casts_and_views, _steps, _without_gradients]


class _Tracked(fx.Interpreter):
    """Runs a graph, and notes which of a call's tensors autograd tracks."""

    def run_node(self, n: fx.Node):
        out = super().run_node(n)
        self.seen = {**getattr(self, "seen", {}), n: tuple(t.requires_grad for t in tensors_of(out))}
        return out


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("body", BODIES, ids=lambda f: f.__name__.strip("_"))
def test_a_value_has_a_gradient_where_pytorch_gives_it_one(body, dynamic: bool):
    captured, inputs = global_graph(Net(body), {"x": torch.randn(3, 4, 8)}, dynamic=dynamic)
    run = _Tracked(captured.graph)
    run.run(*map(concrete, inputs))
    problem = build(captured, default_rules(), MeshAxis("sp", 2))
    said = {op.node.name: tuple(v.diff for v in op.results) for op in problem.ops}
    wrong = {n.name: run.seen[n] for n in run.seen if n.name in said and said[n.name] != run.seen[n]}
    assert not wrong
