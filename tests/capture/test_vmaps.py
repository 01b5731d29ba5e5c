"""Where gradients stop inside of a vmap or a scan: there in the graph too, or refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._higher_order_ops.associative_scan import associative_scan

from autosp.capture import trace
from autosp.errors import CaptureError


def method(a, b):
    return a * 3 + (a - a * 3).detach() * 0.5 + b


def function(a, b):
    return a * 3 + torch.detach(a - a * 3) * 0.5 + b


def ellipsis(a, b):
    return a[...] * 3 + b  # an alias through which a gradient flows


def switched_off(a, b):
    with torch.no_grad():
        c = a * 3
    return a + c * 0.25 + b


class Combined(nn.Module):
    """A scan, or a vmap, with a function of two operands."""

    def __init__(self, combine: Callable, scan: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.combine, self.scan = combine, scan

    def forward(self, x):
        y = x * self.weight
        if self.scan:
            return associative_scan(self.combine, y, dim=1, combine_mode="generic").sum()
        return torch.vmap(lambda a: self.combine(a, a))(y).sum()


def batch() -> torch.Tensor:
    return torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scan", [True, False], ids=["scan", "vmap"])
@pytest.mark.parametrize("combine", [method, function, ellipsis])
def test_a_gradient_stops_where_it_is_detached(combine: Callable, scan: bool):
    model, x = Combined(combine, scan), batch()
    captured, _ = trace(model, {"x": x})
    given = [model.weight if p.role == "param" else x for p in captured.placeholders]
    expected = torch.autograd.grad(model(x), [model.weight])[0]
    assert torch.allclose(torch.autograd.grad(captured.graph(*given)[0], [model.weight])[0], expected, rtol=1e-5)


@pytest.mark.parametrize("scan", [True, False], ids=["scan", "vmap"])
def test_no_grad_inside_is_refused_with_a_fix_that_works(scan: bool):
    with pytest.raises(CaptureError) as raised:
        trace(Combined(switched_off, scan), {"x": batch()})
    (problem,) = raised.value.problems
    assert problem.what == "gradients are switched off inside of a vmap, and a trace of it keeps none of that"
    assert problem.fix.startswith("detach what is computed there, y.detach(), without torch.no_grad();")
    assert "test_vmaps.py" in problem.where and "c = a * 3" in problem.where
    with torch.no_grad():  # where nothing is trained there is nothing to keep
        assert trace(Combined(switched_off, scan), {"x": batch()})[0].graph is not None
