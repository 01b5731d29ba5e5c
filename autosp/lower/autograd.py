"""What autograd makes of a graph's calls, asked of PyTorch itself: each distinct call runs once on fake tensors.

Nothing here knows an operator or a dtype. Whether a result has a gradient, and to which operands it flows, is read off
the graph of derivatives that the call leaves behind.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

import attrs
import torch
from torch import fx
from torch.autograd.graph import get_gradient_edge

from ..capture import Captured, differentiable, tensors_of
from ..capture.assertions import READS
from ..capture.casts import REGION, Casts, casts_of, under
from ..compat.torch import SET_GRAD_ENABLED, FakeTensorMode, data_dependent
from ..layout import as_size
from ..solve.problem import Problem, hint_of
from . import comm
from .convert import convert


@attrs.frozen
class Meta:
    """A tensor without its values. grad: whether autograd tracks it."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    grad: bool

    @classmethod
    def of(cls, t: torch.Tensor, grad: bool | None = None) -> Meta:
        """The tensor's; `grad` where it is not the tensor's own."""
        return cls(tuple(t.shape), tuple(t.stride()), t.dtype, t.device, t.requires_grad if grad is None else grad)


@attrs.frozen
class Outcome:
    """What a call gives (a tree of Meta and numbers), and per tensor of it the operands that its gradient flows to, by
    their places among the call's tensors."""

    value: Any
    reached: tuple[frozenset[int], ...]


@attrs.frozen(eq=False)
class Autograd:
    """Outcomes of calls. Equal calls are run once."""

    mode: FakeTensorMode = attrs.Factory(lambda: FakeTensorMode(allow_non_fake_inputs=True, shape_env=data_dependent()))
    _known: dict = attrs.Factory(dict)

    def call(self, target: Callable, args: Any, kwargs: Mapping, grad: bool, casts: Casts = ()) -> Outcome:
        """The outcome of a call on trees of Meta and plain values. grad: whether gradients are on. casts: the autocast
        regions that it is in."""
        if any(map(_symbolic, _leaves([list(args), list(kwargs.values())]))) or target in READS:
            return self._run(target, args, kwargs, grad, casts)  # each reads a number of its own
        key = target, _key(args), _key(dict(kwargs)), grad, casts
        if key not in self._known:
            try:
                self._known[key] = self._run(target, args, kwargs, grad, casts)
            except Exception:
                if not grad:
                    raise
                self._known[key] = self._assumed(target, args, kwargs, casts)
        return self._known[key]

    def _assumed(self, target: Callable, args: Any, kwargs: Mapping, casts: Casts) -> Outcome:
        """Of a call that fails with gradients on (flex_attention, which has none on the CPU): they flow everywhere."""
        plain = self._run(target, args, kwargs, False, casts)
        given = [x for x in _leaves([list(args), list(kwargs.values())]) if isinstance(x, Meta)]
        wanting = frozenset(i for i, x in enumerate(given) if x.grad)

        def tracked(x: Any) -> Any:
            return attrs.evolve(x, grad=bool(wanting) and differentiable(x.dtype)) if isinstance(x, Meta) else x

        value = _mapped(tracked, plain.value)
        return Outcome(value, tuple(wanting if x.grad else frozenset() for x in _leaves(value) if isinstance(x, Meta)))

    def _run(self, target: Callable, args: Any, kwargs: Mapping, grad: bool, casts: Casts) -> Outcome:
        operands: list[torch.Tensor] = []

        def fake(x: Any) -> Any:
            if isinstance(x, Meta):
                operands.append(self._fake(x))
                return operands[-1]
            return x

        with self.mode, torch.set_grad_enabled(grad), under(casts), comm.unsimulated():
            given = _mapped(fake, tuple(args)), {name: _mapped(fake, x) for name, x in kwargs.items()}
            found = target(*given[0], **given[1])
        results = [x for x in _leaves(found) if isinstance(x, torch.Tensor)]
        return Outcome(
            _mapped(lambda x: Meta.of(x) if isinstance(x, torch.Tensor) else x, found),
            tuple(_reached(r, operands) for r in results),
        )

    def _fake(self, x: Meta) -> torch.Tensor:
        made = torch.empty_strided(x.shape, x.stride, dtype=x.dtype, device=x.device)
        return made.requires_grad_(x.grad)


def _symbolic(x: Any) -> bool:
    """Whether an argument is a number, or has a size, that only the data tell."""
    sizes = (*x.shape, *x.stride) if isinstance(x, Meta) else (x,)
    return any(isinstance(n, (torch.SymInt, torch.SymFloat, torch.SymBool)) for n in sizes)


def _reached(result: torch.Tensor, operands: list[torch.Tensor]) -> frozenset[int]:
    """The operands (fresh leaves) that the result's gradient flows to."""
    if not result.requires_grad:
        return frozenset()
    ends = {get_gradient_edge(x).node: i for i, x in enumerate(operands) if x.requires_grad}
    found, seen, stack = set(), set(), [get_gradient_edge(result).node]
    while stack:
        node = stack.pop()
        if node in ends:
            found.add(ends[node])
        elif node not in seen:
            seen.add(node)
            stack += [after for after, _ in node.next_functions if after is not None]
    return frozenset(found)


def _mapped(function: Callable, x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        return (
            type(x)(_mapped(function, i) for i in x) if type(x) in (list, tuple) else [_mapped(function, i) for i in x]
        )
    return function(x)


def _leaves(x: Any) -> list:
    return [leaf for i in x for leaf in _leaves(i)] if isinstance(x, (list, tuple)) else [x]


def _key(x: Any) -> Any:
    """What tells calls apart: all of a tensor but its values, other arguments by type and value."""
    if isinstance(x, Meta):
        return x
    if isinstance(x, (list, tuple)):
        return tuple(map(_key, x))
    if isinstance(x, dict):
        return tuple((name, _key(v)) for name, v in x.items())
    if isinstance(x, slice):
        return "slice", _key((x.start, x.stop, x.step))
    return (type(x), id(x)) if isinstance(x, fx.GraphModule) else (type(x), x)


class Flow:
    """One graph's values as autograd has them, node by node.

    env: by node, what it gives. flows: by node, per tensor that it gives, the (node, place) that its gradient flows to.
    roots: likewise, the placeholders that it flows to in the end, as bits. casts: by call, the graph's own autocast
    regions that it is in; around them all are those of `around`, open when the program begins.
    """

    def __init__(self, autograd: Autograd, graph: fx.Graph, captured: Captured):
        self.autograd, self.grad, self.around = autograd, captured.training, captured.autocast
        self.casts = casts_of(graph)
        self.env: dict[fx.Node, Any] = {}
        self.flows: dict[fx.Node, tuple[frozenset, ...]] = {}
        self.roots: dict[fx.Node, tuple[int, ...]] = {}

    def given(self, node: fx.Node, value: Any, root: int = 0) -> None:
        """A node that no call gives."""
        self.env[node] = value
        self.flows[node], self.roots[node] = (frozenset(),), (root,)

    def constant(self, node: fx.Node, value: Any) -> None:
        """An attribute of the graph: a tensor, or a function."""
        self.given(node, Meta.of(value, False) if isinstance(value, torch.Tensor) else value)

    def call(self, node: fx.Node) -> None:
        """A call, on what its arguments are by now."""
        if node.target in REGION:
            return self.given(node, None)
        if node.target is operator.getitem and isinstance(self.env[node.args[0]], (list, tuple)):
            return self._item(node, *node.args)
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), self.env.__getitem__)
        outcome = self.autograd.call(node.target, args, kwargs, self.grad, (*self.around, *self.casts[node]))
        operands = self._operands(node)
        apart = node.target is convert  # its tensors only travel together
        self.env[node] = outcome.value
        self.flows[node] = tuple(
            frozenset(operands[i] for i in reached if not apart or i == r) for r, reached in enumerate(outcome.reached)
        )
        self.roots[node] = tuple(self._joined(found) for found in self.flows[node])

    def _item(self, node: fx.Node, source: fx.Node, i: int) -> None:
        values = self.env[source]
        self.env[node] = values[i]
        if isinstance(values[i], Meta):
            place = _tensors(values[:i])
            self.flows[node], self.roots[node] = (self.flows[source][place],), (self.roots[source][place],)

    def _operands(self, node: fx.Node) -> list[tuple[fx.Node, int]]:
        """What gives a call's tensors, in their order, as often as they occur."""
        found: list[tuple[fx.Node, int]] = []
        fx.map_arg((node.args, node.kwargs), lambda n: found.extend((n, j) for j in range(_tensors(self.env[n]))))
        return found

    def _joined(self, found: frozenset) -> int:
        bits = 0
        for node, place in found:
            bits |= self.roots[node][place]
        return bits


def _tensors(value: Any) -> int:
    return sum(isinstance(leaf, Meta) for leaf in _leaves(value))


def flow_of(problem: Problem, autograd: Autograd) -> Flow:
    """The global graph's, from the placeholders on that autograd sees require a gradient."""
    captured = problem.captured
    flow = Flow(autograd, captured.graph.graph, captured)
    wanting = {p.node: p.requires_grad and captured.training for p in captured.placeholders}
    reads = any(not op.results for op in problem.ops)  # then every number is worked out anew
    for i, node in enumerate(captured.graph.graph.nodes):
        val = node.meta.get("val")
        if node.target is SET_GRAD_ENABLED:
            flow.grad = bool(node.args[0]) and captured.training
        elif node.op == "placeholder":
            grad = wanting.get(node.name, False)
            flow.given(node, example(val, problem.hints, grad), 1 << i if grad else 0)
        elif node.op == "get_attr":
            flow.constant(node, attrgetter(node.target)(captured.graph))
        elif node.op == "call_function" and (tensors_of(val) or reads):
            flow.call(node)
        elif node.op == "call_function":
            flow.given(node, example(val, problem.hints, False))
    return flow


def example(val: Any, hints: dict, grad: bool) -> Any:
    """A value of the captured graph in the example's numbers."""
    if isinstance(val, torch.Tensor):
        shape, stride = (tuple(hint_of(as_size(n), hints) for n in sizes) for sizes in (val.shape, val.stride()))
        return Meta(shape, stride, val.dtype, val.device, grad)
    if isinstance(val, torch.SymInt):
        return hint_of(as_size(val), hints)
    return 1.0 if isinstance(val, torch.SymFloat) else val
