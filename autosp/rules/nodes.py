"""What kind of call a node of a graph is, and its arguments by name: `traits` of FX nodes."""

from __future__ import annotations

from typing import Any

from torch import fx

from ..compat.torch import OpOverload
from .book import traits
from .call import arguments, operand_indices, with_arguments
from .model import Test


def is_a(node: fx.Node, *kinds: str) -> bool:
    """Whether a node is a call of an operator of one of these kinds."""
    if node.op != "call_function":
        return False
    own = traits(node.target)
    for kind in kinds:  # called for every node of a graph, many times: no generator
        if kind in own:
            return True
    return False


def is_call(node: fx.Node, word: str) -> bool:
    """Whether a node is a call of a kind, where only some calls of its operator are: a dropout that drops."""
    return node.op == "call_function" and traits(node.target).on(word, node.target, node.args, node.kwargs)


def argument(node: fx.Node, name: str, default: Any = None) -> Any:
    """A call's argument by its name in the schema, or the schema's default; `default` where it has no such name."""
    if not isinstance(node.target, OpOverload):
        return default
    return arguments(node.target, node.args, node.kwargs).get(name, default)


def named(node: fx.Node, word: str) -> tuple[Any, ...]:
    """The arguments that a word of a call's operator names: query, key and value of an `attention`."""
    names = traits(node.target).names(word)
    if not isinstance(node.target, OpOverload):
        return tuple(node.args[: len(names)])
    by_name = arguments(node.target, node.args, node.kwargs)
    return tuple(by_name[n] for n in names)


def places(node: fx.Node, word: str) -> tuple[int | None, ...]:
    """Where the operands that a word names stand among a call's tensors; None for one that is absent."""
    names = traits(node.target).names(word)
    if not isinstance(node.target, OpOverload):
        return tuple(range(len(names)))
    indices = operand_indices(node.target, *fx.map_arg((node.args, node.kwargs), lambda n: n.meta.get("val", n)))
    return tuple(next(iter(indices.get(n, ())), None) for n in names)


def drawless(node: fx.Node) -> tuple[tuple, dict] | None:
    """The arguments with which a call that draws would draw nothing: those of dropout, with `train` false. None where
    its rule names no argument that stops it."""
    clause = traits(node.target).clause("random", node.target, node.args, node.kwargs)
    value = stopping(clause.tests[-1]) if clause is not None and clause.tests else None
    return None if value is None else with_arguments(node.target, node.args, node.kwargs, **value)


def stopping(test: Test) -> dict[str, Any] | None:
    """The argument, and its value, for which a test fails."""
    if test.op == "!=":
        return {test.arg: test.value if isinstance(test.value, bool) else float(test.value)}
    return {test.arg: test.op == "not"} if test.op in ("holds", "not") else None
