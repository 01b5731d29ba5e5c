"""The shapes that a local graph really computes, on fake tensors and without a collective."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from ..capture.own import own_of
from ..compat.torch import FakeTensorMode
from ..layout import Placement, Split, as_size, local_shape
from ..solve import Plan
from ..solve.problem import hint_of
from .convert import convert, mean_over, scale_gradient


def local_shapes(plan: Plan, gm: fx.GraphModule, types: dict) -> Iterator[tuple[fx.Node, tuple[int, ...]]]:
    """Every typed tensor with its shape on this rank, for the sizes of the example."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    run = _Shapes(gm, plan, types, mode)
    with mode, torch.no_grad():
        run.run(*run.inputs())
    for node, shape in run.seen.items():
        if node in types and not isinstance(types[node], tuple):
            yield node, shape


class _Shapes(fx.Interpreter):
    def __init__(self, gm: fx.GraphModule, plan: Plan, types: dict, mode: FakeTensorMode):
        super().__init__(gm, garbage_collect_values=True)
        self.plan, self.types, self.mode = plan, types, mode
        self.seen: dict[fx.Node, tuple[int, ...]] = {}

    def inputs(self) -> list:
        """The example's inputs on fake tensors, numbers for symbols."""
        return [self._fake(n.meta.get("val")) for n in self._placeholders()]

    def _placeholders(self):
        return [n for n in self.plan.problem.captured.graph.graph.nodes if n.op == "placeholder"]

    def _fake(self, val):
        hints = self.plan.problem.hints
        if isinstance(val, torch.Tensor):
            sizes = [hint_of(as_size(s), hints) for s in val.shape]
            return torch.empty(sizes, dtype=val.dtype, device=val.device)
        if isinstance(val, torch.SymInt):
            return hint_of(as_size(val), hints)
        return 1.0 if isinstance(val, torch.SymFloat) else val

    def run_node(self, n: fx.Node):
        if n.target is convert:
            out = self._converted(n)
        elif n.target is scale_gradient or n.target is mean_over:
            out = self.env[n.args[0]]
        elif own_of(n) is not None:
            out = OnShapes(own_of(n).forward).run(*fx.map_arg(n.args, lambda a: self.env[a]))[0]
        else:
            out = super().run_node(n)
        if isinstance(out, torch.Tensor):
            self.seen[n] = tuple(out.shape)
        return out

    def _converted(self, n: fx.Node) -> tuple[torch.Tensor, ...]:
        problem, hints = self.plan.problem, self.plan.problem.hints
        found = []
        for x, t in zip(n.args[0], self.types[n]):
            v = problem.values[t.value]
            shape = local_shape(v.hint, in_numbers(t.placement, hints), self.plan.p, n.args[5])
            found.append(torch.empty(shape, dtype=v.dtype, device=self.env[x].device))
        return tuple(found)


class OnShapes(fx.Interpreter):
    """Runs a body of an autograd.Function on fake tensors, without a collective."""

    def call_function(self, target, args, kwargs):
        if target is not convert:
            return super().call_function(target, args, kwargs)
        xs, _, srcs, dsts, p, rank, _, _ = args
        found = []
        for x, src, dst in zip(xs, srcs, dsts, strict=True):
            shape = list(x.shape)
            if src is not None:
                shape[src[0]] = src[1] * src[2] * src[3]
            if dst is not None:
                shape[dst[0]] = dst[1] * ((dst[2] + (p - 1 - rank)) // p) * dst[3]
            found.append(torch.empty(shape, dtype=x.dtype, device=x.device))
        return tuple(found)


def in_numbers(placement: Placement, hints: dict) -> Placement:
    if not isinstance(placement, Split):
        return placement
    return Split(placement.dim, *(hint_of(x, hints) for x in (placement.outer, placement.units, placement.inner)))
