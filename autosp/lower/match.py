"""What the local version of an operator must look like, worked out anew from its rule, and whether a graph has it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import fx

from ..capture import tensors_of
from ..capture.masks import drops_mask, without_mask
from ..capture.regions import KEY
from ..rules import factor_of, is_a, localise
from ..rules.strategies import narrowed
from ..sharding import Coordinate, Sharding, Split, as_size
from ..solve.problem import Op, Problem, of_data
from .conversions import mean_over

aten = torch.ops.aten


@attrs.frozen
class GlobalValue:
    """A global value, by its id."""

    value: int


@attrs.frozen
class Size:
    """A size, as an expression of the global ones."""

    size: Any


@attrs.frozen
class Calls:
    """A call of `target`; its arguments are such calls, operands, sizes, or plain values."""

    target: Any
    args: tuple
    kwargs: dict


class Anything:
    """An argument that is not compared: a number that only a run knows, a function."""


def version(
    problem: Problem, op: Op, needs: Sequence[Sharding], gives: Sequence[Sharding], where: Sequence[Coordinate]
) -> Calls:
    """What one rank calls in the place of an operator, its operands and results placed so."""
    args, kwargs = fx.map_arg((op.node.args, op.node.kwargs), lambda n: _expected(problem, n))
    if drops_mask(op.node, needs[0] if needs else None):
        args, kwargs = without_mask(op.node.target, args, kwargs)
    if op.node.target is torch.ops.autosp.constrain.default:
        return Calls(aten.alias.default, args[:1], {})
    if KEY in op.node.meta:
        return Calls(op.node.target, _on_shard(op, args, needs, gives, where), {})
    if op.own is not None:  # its bodies are checked by themselves
        return Calls(Anything(), tuple(GlobalValue(v.id) for v in op.operands), {})
    if op.projection is None:
        return Calls(op.node.target, args, dict(kwargs))
    shapes = tuple(v.shape for v in op.results)
    return localise(
        op.node.target, args, kwargs, op.projection, needs, gives, shapes, where,
        lambda target, args, kwargs: Calls(target, tuple(args), dict(kwargs)), Size,
    )  # fmt: skip


def _on_shard(
    op: Op, args: tuple, needs: Sequence[Sharding], gives: Sequence[Sharding], where: Sequence[Coordinate]
) -> tuple:
    """The arguments of a mapped module: it runs as it stands, with the sizes of the shard."""
    projection, over = op.projection, None
    for here in where:
        places = [*enumerate(needs), *((~i, at) for i, at in enumerate(gives))]
        splits = [(i, s.on(here.axis)) for i, s in places if isinstance(s.on(here.axis), Split)]
        if splits:
            part = factor_of(projection, *splits[0])
            over, projection = part[0], narrowed(projection, part, here.size, here.rank)
    if over is None:
        return args
    numbers = op.node.meta[KEY].on_shard(projection.sizes[over])
    return tuple(arg if n is None else Size(n) for n, arg in zip(numbers, args, strict=True))


def _expected(problem: Problem, n: fx.Node) -> Any:
    val = n.meta.get("val")
    if n.op == "get_attr" and "val" not in n.meta:  # a function that the operator takes
        return getattr(problem.captured.graph, n.target)
    if tensors_of(val):
        return GlobalValue(problem.of[n][0].id)
    if isinstance(val, torch.SymInt):
        return Anything() if of_data(as_size(val)) or is_a(n, "item") else Size(as_size(val))
    return Anything() if val is None or isinstance(val, (torch.SymFloat, torch.SymBool)) else val


def fits(actual: Any, expected: Any, value_of: Callable[[fx.Node], int | None], size_of: Callable[[Any], Any]) -> bool:
    """Whether a graph calls what is expected. value_of: the global value that a node is, None for one that is none;
    size_of: what a size in an argument is, as comparable values."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(b, (Anything, fx.GraphModule)):  # functions are not compared
            return True
        if isinstance(b, GlobalValue):
            return isinstance(a, fx.Node) and value_of(_undetached(a, value_of)) == b.value
        if isinstance(b, Size):
            return size_of(a) == size_of(b.size)
        if isinstance(b, Calls):
            if not isinstance(a, fx.Node):
                return False
            if a.target is mean_over:  # of the axis by its group
                return b.target is torch.ops.autosp.mean_over.default and same(a.args[0], b.args[0])
            if isinstance(b.target, Anything):
                return same(list(a.args[: len(b.args)]), list(b.args))
            return a.target == b.target and same(a.args, b.args) and same(dict(a.kwargs), b.kwargs)
        if isinstance(b, (list, tuple)):
            return isinstance(a, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
        if isinstance(b, Mapping):
            return isinstance(a, Mapping) and list(a) == list(b) and all(same(a[k], b[k]) for k in b)
        return not isinstance(a, fx.Node) and type(a) is type(b) and (a == b or a != a)

    return same(actual, expected)


def known_reads(
    node: fx.Node, known: Callable[[fx.Node], bool], through: Callable[[fx.Node], bool] = lambda n: True
) -> list[fx.Node]:
    """The known nodes that a call reads, itself or through calls that are not known: in the order of its arguments, as
    often as it reads them."""
    reads, stack, seen = [], [*reversed(_arguments(node))], set()
    while stack:
        n = stack.pop()
        if known(n):
            reads.append(n)
        elif n not in seen and n.op == "call_function" and through(n):
            seen.add(n)
            stack += reversed(_arguments(n))
    return reads


def _arguments(node: fx.Node) -> list[fx.Node]:
    nodes: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), nodes.append)
    return nodes


def by_operand(operands: Sequence[Hashable], reads: Iterable[tuple[Hashable, Any]]) -> list[Any]:
    """What a call reads for each of its operands; None for one that it does not read. reads: the values that it reads,
    in order, each with how it lies: a value that is read in several ways is distinguished by its place."""
    ways: dict[Hashable, list[Any]] = {}
    for value, way in reads:
        ways.setdefault(value, []).append(way)
    out = []
    for value in operands:
        have = ways.get(value, [])
        out.append(None if not have else have.pop(0) if len(set(have)) > 1 else have[0])
    return out


def _undetached(n: fx.Node, value_of: Callable[[fx.Node], int | None]) -> fx.Node:
    """What a call reads where no gradient is to flow."""
    return n.args[0] if value_of(n) is None and n.target is aten.detach.default else n


def expressions(gm: fx.GraphModule, problem) -> dict[fx.Node, object]:
    """Every size node of a local graph as an expression of the global sizes."""
    known: dict[fx.Node, object] = {}
    by_name = {n.name: n for n in problem.captured.graph.graph.nodes}
    arithmetic = {operator.add, operator.mul, operator.floordiv, operator.mod, operator.sub}
    for node in gm.graph.nodes:
        if node.op == "placeholder" and isinstance(by_name[node.name].meta.get("val"), torch.SymInt):
            known[node] = as_size(by_name[node.name].meta["val"])
        elif node.target is aten.sym_size.int and node.args[0].op == "placeholder":
            known[node] = as_size(by_name[node.args[0].name].meta["val"].shape[node.args[1]])
        elif node.target in arithmetic and all(not isinstance(a, fx.Node) or a in known for a in node.args):
            known[node] = as_size(node.target(*(known.get(a, a) if isinstance(a, fx.Node) else a for a in node.args)))
    return known
