"""One rank's version of an autograd.Function's call: both bodies on local sizes, and its checks."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import sympy
import torch
from torch import fx

from ..capture import tensors_of
from ..capture.own import OwnBackward
from ..errors import PlanError, Problem
from ..rules import localise_on_axis
from ..sharding import REPLICATE, Coordinate, Placement, Sharding, Split, as_size
from ..solve.bodies import Bodies, BodyStep, PlacedStep, Placing, Ref, Refused
from ..solve.problem import Op
from .conversions import convert
from .sizes import Sizes

STEP = "autosp_step"  # on the node of a local body that stands for a step


def local_own(op: Op, needs: Sequence[Sharding], gives: Sequence[Sharding], where: Sequence[Coordinate]) -> OwnBackward:
    """The bodies of a call as this rank runs them."""
    try:
        here = axis_of(needs, gives, where)
        placing = placing_of(op, [s.on(here.axis) for s in needs], [s.on(here.axis) for s in gives], here.size)
    except Refused as reason:
        raise PlanError(_not_as_planned(op, str(reason))) from reason
    symbols = _symbols(op.own)
    emit = _Emit(op.own, placing, symbols, here)
    return OwnBackward(emit.forward(), emit.backward(), op.own.own.constant, symbols)


def axis_of(needs: Sequence[Sharding], gives: Sequence[Sharding], where: Sequence[Coordinate]) -> Coordinate:
    """The axis that a call is split over, or the first. Raises Refused where there are several."""
    split = [here for here in where if any(isinstance(s.on(here.axis), Split) for s in (*needs, *gives))]
    if len(split) > 1:
        raise Refused(f"it would be split over {' and '.join(here.axis for here in split)}, and one axis is proved")
    return (*split, *where)[0]


def placing_of(op: Op, needs: Sequence[Placement], gives: Sequence[Placement], p: int) -> Placing:
    """How both bodies run where the call's ends lie so. Raises Refused where they cannot."""
    bodies = op.own
    ends = zip((*bodies.inputs, *bodies.results), (*needs, *gives), strict=True)
    seeds = {r: at for r, at in ends if isinstance(at, Split)}
    if not seeds:
        partial = any(v.diff and at is REPLICATE for v, at in zip(op.operands, needs))
        return bodies.placed({}, p) if partial else bodies.plain()
    for loose in (False, True):
        try:
            placing = bodies.placed(bodies.followed(seeds, p, loose), p)
        except Refused:
            if loose:
                raise
            continue
        if all(placing.at[r] == at for r, at in zip(bodies.inputs, needs)):
            return placing
    raise Refused("its operands would lie otherwise")


class _Emit:
    """Writes both bodies anew, step by step, on one rank's sizes."""

    def __init__(self, bodies: Bodies, placing: Placing, symbols, here: Coordinate):
        self.bodies, self.placing, self.symbols, self.here = bodies, placing, symbols, here

    def forward(self) -> fx.GraphModule:
        inputs = self._begin(self.bodies.own.forward, self.bodies.inputs)
        self._steps(self.placing.forward)
        results = tuple(self.env[r] for r in self.bodies.results)
        saved = tuple(self.env[r] for r in self.bodies.saved)
        return self._end((results, (*saved, *inputs)))

    def backward(self) -> fx.GraphModule:
        self._begin(self.bodies.own.backward, [*self.bodies.incoming, *self.bodies.saved])
        self._steps(self.placing.backward)
        gradients = []
        for r, leaves in zip(self.bodies.outgoing, self.placing.gradients, strict=True):
            gradients.append(None if r is None else self._converted(r, *leaves))
        return self._end((*gradients, *(None for _ in self.symbols)))

    def _begin(self, source: fx.GraphModule, inputs: Sequence[Ref]) -> list[fx.Node]:
        """A new graph with its placeholders and constants. Gives the nodes of the symbols."""
        self.source, self.graph, self.meta = source, fx.Graph(), {}
        self.env: dict[Ref, fx.Node] = {}
        for i, r in enumerate(inputs):
            self.env[r] = self._typed(self.graph.placeholder(f"x{i}"), r, self.placing.at.get(r, REPLICATE))
        known = {s: self.graph.placeholder(str(s)) for s in self.symbols}
        self.sizes = Sizes(self.graph, known)
        for node in source.graph.find_nodes(op="get_attr"):
            if isinstance(node.meta.get("val"), torch.Tensor):
                self.env[node, 0] = self._typed(self.graph.get_attr(str(node.target)), (node, 0), REPLICATE)
        return list(known.values())

    def _end(self, outputs: tuple) -> fx.GraphModule:
        self.graph.output(outputs)
        self.graph.eliminate_dead_code()
        root = {n.target: getattr(self.source, n.target) for n in self.graph.find_nodes(op="get_attr")}
        return fx.GraphModule(root, self.graph)

    def _steps(self, steps: Sequence[PlacedStep]) -> None:
        for placed in steps:
            self._step(placed.step, placed)

    def _step(self, step: BodyStep, placed: PlacedStep) -> None:
        self.meta = {k: step.node.meta[k] for k in ("stack_trace", "nn_module_stack") if k in step.node.meta}
        ready = []
        for r, need in zip(step.operands, placed.needs, strict=True):
            ready.append(self._converted(r, self.placing.at.get(r, REPLICATE), need))
        operands = iter(ready)

        def local(n: fx.Node):
            return next(operands) if tensors_of(n.meta.get("val")) else self._number(n)

        args, kwargs = fx.map_arg(step.node.args, local), fx.map_arg(step.node.kwargs, local)
        if step.projection is None:
            out = self._emit(step.node.target, args, kwargs)
        else:
            shapes = tuple(self.bodies.shape(r) for r in step.results)
            out = localise_on_axis(
                step.node.target, args, kwargs, step.projection, placed.needs, placed.gives, shapes,
                self.here.size, self.here.rank, self._emit, self.sizes,
            )  # fmt: skip
        out.meta[STEP] = step
        single = isinstance(step.node.meta["val"], torch.Tensor)
        for r, at in zip(step.results, placed.gives, strict=True):
            node = out if single else self.graph.call_function(operator.getitem, (out, r[1]))
            self.env[r] = self._typed(node, r, at)

    def _emit(self, target, args, kwargs) -> fx.Node:
        node = self.graph.call_function(target, tuple(args), dict(kwargs))
        node.meta.update(self.meta)
        return node

    def _number(self, n: fx.Node):
        """A size as an expression of the symbols; any other number by the call that gives it."""
        val = n.meta.get("val")
        if isinstance(val, torch.SymInt):
            return self.sizes(val)
        if not isinstance(val, (torch.SymFloat, torch.SymBool)):
            return val
        return self.graph.call_function(n.target, fx.map_arg(n.args, self._number))

    def _converted(self, r: Ref, have: Placement, need: Placement) -> fx.Node:
        if have == need:
            return self.env[r]
        src, dst = (Split(at.dim, *map(self.sizes, at[1:])) if isinstance(at, Split) else at for at in (have, need))
        node = self._emit(convert, ((self.env[r],), (src,), (dst,), self.here, False), {})
        return self._typed(self._emit(operator.getitem, (node, 0), {}), r, need)

    def _typed(self, node: fx.Node, r: Ref, at: Placement) -> fx.Node:
        node.meta["autosp"] = r, at
        return node


def _symbols(bodies: Bodies) -> tuple[sympy.Symbol, ...]:
    """Every symbol that a size inside is made of."""
    symbols: set[sympy.Basic] = set()
    for body in (bodies.own.forward, bodies.own.backward):
        for node in body.graph.nodes:
            val = node.meta.get("val")
            sizes = [as_size(n) for t in tensors_of(val) for n in t.shape]
            sizes += [as_size(val)] if isinstance(val, torch.SymInt) else []
            symbols |= {x for n in sizes if isinstance(n, sympy.Expr) for x in n.free_symbols}
    return tuple(sorted(symbols, key=str))


def _not_as_planned(op: Op, reason: str) -> Problem:
    return Problem(
        what=f"an autograd.Function cannot be split as planned: {reason}",
        rule="a call with a backward of its own is split by the rules of the operators in its forward and its backward",
        fix="write the function in differentiable operators, and report this call with AUTOSP_DUMP's files",
        where=op.source or op.node.name,
    )


def not_linear(op: Op) -> Problem:
    return Problem(
        what="the backward of an autograd.Function is not linear in the gradient, and the loss is a mean over "
        "data-parallel ranks",
        rule="under 'reduce loss mean over' a rank's gradients are weighed by all ranks' tokens: a backward that clips "
        "them, or adds to them, would give others than those of the whole batch",
        fix="leave the statement 'reduce loss mean over' out, or write the function in differentiable operators",
        where=op.source or op.node.name,
    )
