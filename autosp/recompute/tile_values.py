"""What tiling sees of a local graph: the shape of every value, and every call in factors."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Mapping

import torch
from torch import fx

from ..capture import tensors_of
from ..compat.torch import FakeTensor, FakeTensorMode, OpOverload, data_dependent, unguarded
from ..errors import RuleError
from ..lower.conversions import convert, mean_over
from ..lower.shapes import OnShapes
from ..rules import Projection, RuleBook, is_a, places
from ..sharding import Size, as_size
from ..solve.problem import concrete, hint_of

aten = torch.ops.aten
Ref = tuple[fx.Node, int]  # a call, and which of its results

COLLECTIVE = (convert, mean_over)


def ref(node: fx.Node) -> Ref:
    """The value that a node stands for: an item of a call's results is known by that call."""
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        return node.args[0], node.args[1]
    return node, 0


class Values:
    """The values of one graph; `hints` are the numbers that symbolic sizes had in the example."""

    def __init__(self, gm: fx.GraphModule, book: RuleBook, hints: Mapping | None = None, known: bool = False):
        """known: every node has its fake value already."""
        self.gm, self.book, self.hints = gm, book, hints or {}
        self.order = {n: i for i, n in enumerate(gm.graph.nodes)}
        self._calls: dict[fx.Node, Projection | None] = {}
        if not known:
            with quiet(gm):
                run_shapes(gm)

    def tensor(self, r: Ref) -> torch.Tensor:
        """A fake tensor of the value's shape and dtype."""
        return tensors_of(r[0].meta["val"])[r[1]]

    def shape(self, r: Ref) -> tuple[Size, ...]:
        return tuple(as_size(n) for n in self.tensor(r).shape)

    def number(self, size: Size) -> int:
        """A size as it was in the example."""
        return hint_of(size, self.hints)

    def numel(self, r: Ref) -> int:
        n = 1
        for size in self.shape(r):
            n *= self.number(size)
        return n

    def bytes(self, r: Ref) -> int:
        return self.numel(r) * self.tensor(r).dtype.itemsize

    def operands(self, node: fx.Node) -> list[Ref]:
        """A call's tensor operands, in the order of its rule, as often as they occur."""
        refs: list[Ref] = []
        fx.map_arg((node.args, node.kwargs), lambda n: refs.append(ref(n)) if tensors_of(n.meta.get("val")) else None)
        return refs

    def results(self, node: fx.Node) -> list[Ref]:
        return [(node, i) for i in range(len(tensors_of(node.meta.get("val"))))]

    def readers(self, r: Ref) -> list[fx.Node]:
        """The calls that read a value, through the items of a call's results."""
        calls = []
        for user in r[0].users:
            if user.target is not operator.getitem or not isinstance(r[0].meta["val"], (tuple, list)):
                calls.append(user)
            elif user.args[1] == r[1]:
                calls += user.users
        return list(dict.fromkeys(calls))

    def call(self, node: fx.Node) -> Projection | None:
        """The call in factors; None where no rule speaks of it."""
        if node not in self._calls:
            self._calls[node] = self._bind(node)
        return self._calls[node]

    def _bind(self, node: fx.Node) -> Projection | None:
        if not isinstance(node.target, OpOverload):
            return None
        try:
            return self.book.bind(node.target, concrete(node.args), concrete(node.kwargs), node.meta["val"])
        except RuleError:
            return None

    def is_weight(self, r: Ref) -> bool:
        """Whether a value is a matrix that comes from one input by moving and casting alone."""
        node = r[0]
        if self.tensor(r).dim() != 2 or not self.tensor(r).is_floating_point():
            return False
        while node.op == "call_function":
            call = self.call(node) if node.target is not convert else None
            if node.target is convert:
                node = ref(node.args[0][r[1]])[0]
            elif call is not None and call.movement and len(self.operands(node)) == 1:
                node = self.operands(node)[0][0]
            else:
                return False
        return node.op in ("placeholder", "get_attr")

    def weighted(self, node: fx.Node) -> tuple[Ref, Ref] | None:
        """The activation and the weight of a call that multiplies them."""
        if not is_a(node, "matmul") or self.call(node) is None:
            return None
        x, w = (self.operands(node)[i] for i in places(node, "matmul"))
        return (x, w) if self.is_weight(w) else None


def quiet(gm: fx.GraphModule) -> contextlib.AbstractContextManager:
    """Local sizes are never guarded: what is looked at here must not make a rank compile anew."""
    return unguarded(mode_of(gm))


def mode_of(gm: fx.GraphModule) -> FakeTensorMode | None:
    """The fake mode of the graph's inputs."""
    for node in gm.graph.find_nodes(op="placeholder"):
        if isinstance(node.meta.get("val"), FakeTensor):
            return node.meta["val"].fake_mode
    return None


def run_shapes(gm: fx.GraphModule) -> None:
    """Write the fake value of every node into its `val`, without a collective."""
    inputs = [n.meta.get("val") for n in gm.graph.find_nodes(op="placeholder")]
    mode = mode_of(gm)
    if not any(map(_is_symbolic, inputs)):  # a mode of its own: ranks may be threads of one process
        mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=data_dependent())
        inputs = [_fresh(x, mode) for x in inputs]
    with mode, torch.no_grad():  # pyrefly: ignore[bad-context-manager]  # a fake input has one
        OnShapes(gm, record=True, mode=mode).run(*inputs)


def _is_symbolic(x) -> bool:
    sizes = x.shape if isinstance(x, torch.Tensor) else (x,)
    return any(isinstance(n, torch.SymInt) for n in sizes)


def _fresh(x, mode: FakeTensorMode):
    if not isinstance(x, torch.Tensor):
        return x
    with mode:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
