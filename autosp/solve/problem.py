"""The captured graph as values and operators in factors: what the solver sees."""

from __future__ import annotations

import hashlib
import operator
from typing import Any

import attrs
import torch
from torch import fx
from torch.fx.node import map_aggregate

from ..capture import Captured, GraphOutput, module_path, source_line, tensor_nodes, tensors_of
from ..capture.autograd import Autograd, hint_of
from ..capture.keys import key_of
from ..capture.own import own_of
from ..capture.regions import KEY
from ..compat.torch import SET_GRAD_ENABLED, OpOverload, symbol_of_data
from ..errors import AutospError, RuleError
from ..rules import Projection, RuleBook, is_a
from ..sharding import MeshAxis, Size, as_size
from .bodies import Bodies
from .own import own_projection


@attrs.define(eq=False)
class Value:
    """One tensor of the graph. `hint` are the sizes as numbers; `param` says that it comes from
    parameters and buffers alone; `diff` that a gradient flows to it; `data_only` that it comes from
    inputs and buffers alone, without a gradient: masks, positions, labels."""

    id: int
    node: fx.Node
    index: int | None
    shape: tuple[Size, ...]
    hint: tuple[int, ...]
    dtype: torch.dtype
    diff: bool
    param: bool
    data_only: bool = False
    regions: set = attrs.Factory(set)
    users: list = attrs.field(factory=list, repr=False)  # calls hold their operands: a cycle

    @property
    def numel(self) -> int:
        n = 1
        for s in self.hint:
            n *= s
        return n

    @property
    def bytes(self) -> int:
        return self.numel * self.dtype.itemsize

    @property
    def tagged(self) -> bool:
        """Whether some dim descends from one that the spec splits."""
        return any(r.axes for r in self.regions)

    @property
    def name(self) -> str:
        return self.node.name if self.index is None else f"{self.node.name}[{self.index}]"


@attrs.define(eq=False)
class Op:
    """One call. `projection` is None where no rule exists: it may only run whole. `own` are the
    bodies of an autograd.Function, `reasons` why dims of it are whole."""

    id: int
    node: fx.Node
    operands: tuple[Value, ...]
    results: tuple[Value, ...]
    projection: Projection | None
    error: AutospError | None = None
    own: Bodies | None = None
    reasons: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        return module_path(self.node)

    @property
    def source(self) -> str:
        return source_line(self.node)

    @property
    def diff(self) -> bool:
        return any(v.diff for v in self.results)

    @property
    def tagged(self) -> bool:
        return any(v.tagged for v in (*self.operands, *self.results))


@attrs.frozen(eq=False)
class Problem:
    """axis: the one that is solved for. values and ops in graph order; `of` finds the values that a node gives;
    `lengths` are the sizes that the spec splits over the axis."""

    captured: Captured
    axis: MeshAxis
    values: tuple[Value, ...]
    ops: tuple[Op, ...]
    of: dict[fx.Node, tuple[Value, ...]]
    hints: dict
    lengths: set = attrs.Factory(set)

    def hint(self, size: Size) -> int:
        return hint_of(size, self.hints)

    def digest(self) -> str:
        """What tells this program from another, the names of its nodes aside."""
        lines = [f"{v.shape} {v.dtype} {v.diff}" for v in self.values]
        lines += [f"{_call(op.node)} {[v.id for v in op.operands]} {[v.id for v in op.results]}" for op in self.ops]
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
        return f"{len(self.ops)} operators, {digest}"

    def output_value(self, output: GraphOutput) -> Value | None:
        """The value that an output is; None where it is a number, or absent."""
        node = self.captured.node_of(output)
        return self.of[node][0] if node in self.of else None


def _call(node: fx.Node) -> str:
    """What a node calls and its constants, in words that do not change from process to process."""
    target = str(node.target) if isinstance(node.target, OpOverload) else getattr(node.target, "__name__", "")

    def constant(x: Any) -> Any:
        return x if isinstance(x, (bool, int, float, str, torch.dtype, type(None))) else type(x).__name__

    return f"{target} {map_aggregate((node.args, dict(node.kwargs)), constant)}"


def of_data(size: Size) -> bool:
    """Whether only the data tell a size: what `nonzero` finds, a number read with `.item()`."""
    return not isinstance(size, int) and any(map(symbol_of_data, size.free_symbols))


def build(captured: Captured, book: RuleBook, axis: MeshAxis) -> Problem:
    """Values with their gradients' flow, and each call bound to its rule."""
    values: list[Value] = []
    ops: list[Op] = []
    of: dict[fx.Node, tuple[Value, ...]] = {}
    roles = {p.node: p for p in captured.placeholders}
    grad = captured.training
    binder = _Binder(book)
    autograd = Autograd()

    def new(node, index, t, diff, param, data_only) -> Value:
        shape = tuple(as_size(s) for s in t.shape)
        hint = tuple(hint_of(s, captured.hints) for s in shape)
        v = Value(len(values), node, index, shape, hint, t.dtype, diff, param, data_only)
        values.append(v)
        return v

    for node in captured.graph.graph.nodes:
        if node.op == "placeholder":
            if isinstance(node.meta.get("val"), torch.Tensor):
                p = roles[node.name]
                diff = p.requires_grad and captured.training
                data_only = not diff and p.role != "param"
                of[node] = (new(node, None, node.meta["val"], diff, p.role in ("param", "buffer"), data_only),)
        elif node.op == "get_attr":
            if isinstance(node.meta.get("val"), torch.Tensor):
                of[node] = (new(node, None, node.meta["val"], False, True, True),)
        elif node.op == "call_function":
            if node.target is SET_GRAD_ENABLED:
                grad = bool(node.args[0]) and captured.training
            elif not tensors_of(node.meta.get("val")) and not reads_values(node):
                continue  # a size: known by its expression
            elif _is_getitem(node) and isinstance(node.args[0].meta["val"], (tuple, list)):
                of[node] = (of[node.args[0]][node.args[1]],)
            else:
                wanting = {n for n in tensor_nodes(node) if of[n][0].diff}
                _add_call(node, autograd.flows(node, wanting, captured.hints, grad), binder, of, new, ops)
    return Problem(captured, axis, tuple(values), tuple(ops), of, captured.hints)


def reads_values(node: fx.Node) -> bool:
    """Whether a call that gives no tensor reads the values of one (`.item()`), or asserts something."""
    if is_a(node, "assertion"):
        return True
    if _is_getitem(node) and KEY in node.args[0].meta:  # a size among a mapped module's results
        return False
    return not is_a(node, "size") and bool(tensor_nodes(node))


def _add_call(node, flows, binder, of, new, ops) -> None:
    operands = tuple(of[n][0] for n in tensor_nodes(node))
    param = bool(operands) and all(v.param for v in operands)
    data_only = all(v.data_only for v in operands)
    tensors = tensors_of(node.meta.get("val"))
    single = isinstance(node.meta.get("val"), torch.Tensor)
    bodies, reasons = own_of(node), ()
    constant = bodies.constant if bodies is not None else ()  # results that an own backward leaves out
    results = tuple(
        new(node, None if single else i, t, flows[i] and i not in constant, param, data_only)
        for i, t in enumerate(tensors)
    )
    own = Bodies(bodies, tuple(v.diff for v in operands), binder.bind) if bodies is not None else None
    if own is None:
        projection, error = binder.bind(node)
    else:
        (projection, reasons), error = binder.bind_own(node, own), None
    if projection is not None:
        assert len(projection.operands) == len(operands), (node.format_node(), projection)
        assert len(projection.results) == len(results), (node.format_node(), projection)
    op = Op(len(ops), node, operands, results, projection, error, own, reasons)
    ops.append(op)
    if results:
        of[node] = results
    for i, v in enumerate(operands):
        v.users.append((op, i))


@attrs.frozen(eq=False)
class _Binder:
    """Binds calls to their rules; calls with equal arguments share one projection."""

    book: RuleBook
    known: dict = attrs.Factory(dict)

    def bind(self, node: fx.Node) -> tuple[Projection | None, RuleError | None]:
        if not tensors_of(node.meta.get("val")):  # it reads whole values
            return None, None
        if KEY in node.meta:  # a mapped module: its factors follow once dims have their names
            return None, None
        args, kwargs, val = concrete(node.args), concrete(node.kwargs), node.meta["val"]
        key = key_of((node.target, args, kwargs, val))
        if key not in self.known:
            try:
                self.known[key] = self.book.bind(node.target, args, kwargs, val), None
            except RuleError as e:
                self.known[key] = None, e
        return self.known[key]

    def bind_own(self, node: fx.Node, own: Bodies) -> tuple[Projection, tuple[str, ...]]:
        """An autograd.Function's call, by what its bodies do; equal bodies share one projection."""
        code = own.own.forward.code, own.own.backward.code
        key = "own backward", *code, own.diff, own.own.constant, key_of(concrete(node.args))
        if key not in self.known:
            self.known[key] = own_projection(own, f"the own backward at {source_line(node) or node.name}")
        return self.known[key]


def concrete(args: Any):
    """Arguments with every node replaced by its fake value; a subgraph stands for itself."""
    return fx.map_arg(args, lambda n: n.meta.get("val", n))


def _is_getitem(node: fx.Node) -> bool:
    return node.target is operator.getitem


__all__ = ["Op", "Problem", "Value", "build", "concrete", "hint_of", "of_data", "reads_values", "tensor_nodes"]
