"""Calls of an `autograd.Function`: a forward and a backward of its own, as two ATen graphs.

Dynamo holds such a call as a higher-order operator with two subgraphs. Traced through, the forward
would run and the backward would be lost. So the trace sees an operator of ours in its place, and
afterwards both subgraphs are traced to ATen by themselves: the call stays one node of the graph,
a function that `own_of` tells the bodies of.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import attrs
import torch
from torch import fx

from ..compat.torch import SET_GRAD_ENABLED, HigherOrderOperator, saw_call_of, statically_known_true, trace_to_aten
from ..errors import AutospError, CaptureError, Problem
from ..rules import is_a
from .canonical import canonicalise
from .captured import Placeholder, source_line
from .functional import functionalise

_APPLY = torch.ops.higher_order.autograd_function_apply
_keys = itertools.count()
_pending: dict[int, _Call] = {}  # what the trace has met so far, by the number that stands in the graph


@attrs.frozen(eq=False)
class OwnBackward:
    """forward: a call's arguments to (results, saved). backward: the gradients of all results, then
    what was saved, to a gradient or None per argument. constant: results without a gradient.
    symbols: the sizes that one rank's version takes after its tensors."""

    forward: fx.GraphModule
    backward: fx.GraphModule
    constant: frozenset[int]
    symbols: tuple = ()

    def called(self, name: str) -> Callable:
        """A function that graphs can call, and autograd knows the backward of."""

        def apply(*args):
            return _Apply.apply(self, *args)

        apply.__name__ = apply.__qualname__ = name
        apply.__module__ = "autosp"
        apply.autosp_own = self
        return apply


def own_of(node: fx.Node) -> OwnBackward | None:
    """The bodies of a call of an autograd.Function; None for any other node."""
    return bodies_of(node.target)


def bodies_of(target: object) -> OwnBackward | None:
    """The same of what a call calls."""
    return getattr(target, "autosp_own", None)


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx, bodies, *args):
        results, saved = bodies.forward(*args)
        results = tuple(r.view_as(r) if any(r is a for a in args) else r for r in results)
        ctx.save_for_backward(*(s for s in saved if isinstance(s, torch.Tensor)))
        ctx.autosp = bodies, [None if isinstance(s, torch.Tensor) else s for s in saved]
        ctx.mark_non_differentiable(*(results[i] for i in sorted(bodies.constant)))
        return results

    @staticmethod
    def backward(ctx, *grads):
        bodies, kept = ctx.autosp
        tensors = iter(ctx.saved_tensors)
        saved = [next(tensors) if k is None else k for k in kept]
        return None, *bodies.backward(*grads, *saved)


@attrs.frozen(eq=False)
class _Call:
    """A call as Dynamo holds it. tensors: the places of its tensors among `count` arguments."""

    forward: fx.GraphModule
    backward: fx.GraphModule
    constant: frozenset[int]
    tensors: tuple[int, ...]
    count: int

    def arguments(self, tensors: Sequence, sizes: Sequence) -> list:
        """Tensors and sizes in the order of the call."""
        given, counts = iter(tensors), iter(sizes)
        return [next(given) if i in self.tensors else next(counts) for i in range(self.count)]


@torch.library.custom_op(
    "autosp::own_backward", mutates_args=(), schema="(Tensor[] tensors, SymInt[] sizes, int key) -> Tensor[]"
)
def own_backward_op(tensors: list[torch.Tensor], sizes: list[int], key: int) -> list[torch.Tensor]:
    """Only a mark in a trace."""
    raise AssertionError("autosp::own_backward is replaced after tracing")


@own_backward_op.register_fake
def _(tensors: list[torch.Tensor], sizes: list[int], key: int) -> list[torch.Tensor]:
    call = _pending[key]
    with torch.no_grad():
        results, _ = _Body(call.forward).run(*call.arguments(tensors, sizes))
    return [torch.empty_like(r) for r in results]


class _Body(fx.Interpreter):
    """Runs a body without its switches of grad mode: no gradient flows inside."""

    def call_function(self, target, args, kwargs):
        if target is SET_GRAD_ENABLED:
            return None
        return super().call_function(target, args, kwargs)


def is_own(target: Any) -> bool:
    """Whether a call in Dynamo's graph is that of an autograd.Function."""
    return target is _APPLY


def mark(args: tuple, kwargs: dict, read: Collection[int]) -> tuple:
    """The results of a call as the trace sees it. read: the places of those that the graph reads. Raises CaptureError
    for one that no graph can hold."""
    forward, backward, *given = args
    if kwargs.get("dirty_idx"):
        raise CaptureError(
            _refused(
                "an autograd.Function writes to its input (ctx.mark_dirty)",
                "return a new value instead, and leave ctx.mark_dirty out",
            )
        )
    count = len(forward.graph.output_node().args[0][0])
    kept = _results(backward, count, read)
    constant = frozenset(kept.index(i) for i in kwargs["non_differentiable_idx"] if i in kept)
    if len(kept) < count:
        forward, backward = _without(forward, backward, kept)
    if _unmaterialised() and len(forward.graph.output_node().args[0][0]) - len(constant) > 1:
        raise CaptureError(
            _refused(
                "an autograd.Function with several results, beside a call of ctx.set_materialize_grads",
                "leave ctx.set_materialize_grads out: the gradient of an unused result is then zeros, not None",
            )
        )
    for body, name in ((forward, "forward"), (backward, "backward")):
        _refuse_inside(body, name)
    tensors = [i for i, a in enumerate(given) if isinstance(a, torch.Tensor)]
    sizes = [a for i, a in enumerate(given) if i not in tensors]
    key = next(_keys)
    _pending[key] = _Call(forward, backward, constant, tuple(tensors), len(given))
    made = dict(zip(kept, torch.ops.autosp.own_backward([given[i] for i in tensors], sizes, key), strict=True))
    return tuple(made.get(i) for i in range(count))


def _results(backward: fx.GraphModule, count: int, read: Collection[int]) -> list[int]:
    """The places of the results that are the function's own. Dynamo up to torch 2.11 gives all that a forward computes as
    results, and calls the gradients of those beside its own so in the backward, which does not read them."""
    gradients = backward.graph.find_nodes(op="placeholder")[:count]
    return [i for i, n in enumerate(gradients) if i in read or n.users or not str(n.target).startswith("unused_")]


def _without(
    forward: fx.GraphModule, backward: fx.GraphModule, kept: Sequence[int]
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Both bodies with these results alone."""
    bodies = []
    for body in (forward, backward):
        graph = fx.Graph()
        graph.output(graph.graph_copy(body.graph, {}))
        bodies.append(fx.GraphModule(body, graph))
    results, saved = bodies[0].graph.output_node().args[0]
    bodies[0].graph.output_node().args = ((tuple(results[i] for i in kept), saved),)
    for i, n in enumerate(bodies[1].graph.find_nodes(op="placeholder")[: len(results)]):
        if i not in kept:
            bodies[1].graph.erase_node(n)
    for body in bodies:
        body.recompile()
    return bodies[0], bodies[1]


def _unmaterialised() -> bool:
    """Whether Dynamo met `ctx.set_materialize_grads`: it goes on as if it had not, and the backward is
    traced as if every result had a gradient."""
    return saw_call_of(torch.autograd.function.FunctionCtx.set_materialize_grads)


def _refuse_inside(body: fx.GraphModule, name: str) -> None:
    for node in body.graph.nodes:
        if isinstance(node.target, HigherOrderOperator):
            raise CaptureError(
                _refused(
                    f"the {name} of an autograd.Function holds '{node.target}', an operator that takes functions",
                    "write the function in differentiable operators: autograd then gives its backward",
                    source_line(node),
                )
            )


def place(gm: fx.GraphModule) -> None:
    """Every marked call becomes one of its bodies, which are traced here. Raises CaptureError."""
    nodes = gm.graph.find_nodes(op="call_function", target=torch.ops.autosp.own_backward.default)
    faults = []
    for i, node in enumerate(nodes):
        tensors, sizes, key = node.args
        call = _pending.pop(key)
        args = call.arguments(tensors, sizes)
        vals = [a.meta["val"] if isinstance(a, fx.Node) else a for a in args]
        try:
            own = _bodies(call, vals)
        except AutospError as e:
            faults += [attrs.evolve(p, where=p.where or source_line(node)) for p in e.problems]
            continue
        node.target, node.args = own.called(f"own_backward_{i}"), tuple(args)
    if faults:
        raise CaptureError(faults)
    if nodes:
        gm.graph.lint()
        gm.recompile()


def forget() -> None:
    """Calls of a trace that failed."""
    _pending.clear()


def _bodies(call: _Call, vals: list) -> OwnBackward:
    """Both bodies in ATen, on fake tensors like those of the call."""
    forward = _traced(call.forward, [_fresh(v) for v in vals], "forward")
    results, saved = forward.graph.output_node().args[0]
    given = [n.meta["val"] if isinstance(n, fx.Node) else n for n in (*results, *saved)]
    with torch.amp.autocast(_device(vals), enabled=False):
        backward = _traced(call.backward, [_fresh(v) for v in given], "backward", like=vals)
    return OwnBackward(forward, backward, call.constant)


def _device(vals: list) -> str:
    return next(v.device.type for v in vals if isinstance(v, torch.Tensor))


def _fresh(val):
    return torch.empty_like(val).requires_grad_(False) if isinstance(val, torch.Tensor) else val


def _traced(body: fx.GraphModule, args: list, name: str, like: Sequence = ()) -> fx.GraphModule:
    """A body as a functional ATen graph, dead code removed. like: what a backward's gradients belong to."""
    interpreter = _Body(body)

    def run(*given):
        found = interpreter.run(*given)
        return tuple(map(_summed_to, found, like)) if like else found

    with torch.no_grad():
        graph = trace_to_aten(run, args)
    for node in graph.graph.nodes:
        if is_a(node, "random"):
            raise CaptureError(
                _refused(
                    f"the {name} of an autograd.Function draws random numbers ('{node.target}')",
                    "draw them outside, and give them to the function as an argument",
                    source_line(node),
                )
            )
        if is_a(node, "assertion"):
            raise CaptureError(
                _refused(
                    f"the {name} of an autograd.Function asserts something of its values",
                    "assert it outside, before or after the call",
                    source_line(node),
                )
            )
    inputs = [n for n in graph.graph.nodes if n.op == "placeholder"]
    names = [n.name for n in body.graph.nodes if n.op == "placeholder"]
    known = [Placeholder(n.name, "input", name, False) for n, name in zip(inputs, names, strict=True)]
    functionalise(graph, known, training=False)
    canonicalise(graph, training=torch.is_grad_enabled())
    return graph


def _summed_to(gradient, operand):
    """A gradient of a shape that its operand is broadcast to, as autograd sums it."""
    if not isinstance(gradient, torch.Tensor):
        return gradient
    extra = gradient.dim() - operand.dim()
    if extra:
        gradient = gradient.sum(list(range(extra)))
    for d, (have, want) in enumerate(zip(gradient.shape, operand.shape, strict=True)):
        if not statically_known_true(have == want):
            gradient = gradient.sum(d, keepdim=True)
    return gradient


def _refused(what: str, fix: str, where: str = "") -> Problem:
    return Problem(
        what=what,
        rule="a call with a backward of its own is split by the rules of the operators in its forward and its backward",
        fix=fix,
        where=where,
    )
