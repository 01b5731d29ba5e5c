"""What a captured graph still lacks: calls without a rule, each with a rule to start from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import attrs
from torch import fx

from ..capture import Captured, tensors_of
from ..capture.captured import paths_of
from ..capture.own import own_of
from ..compat.torch import HigherOrderOperator, OpOverload
from ..errors import RuleError
from ..rules import RuleBook, op_name
from ..rules.call import make_call
from ..rules.draft import draft_rule
from ..spec import Map
from ..spec.paths import matches


@attrs.frozen
class MissingRule:
    """An operator without a rule for some of its calls.

    why: what is wrong, in a line. source, module: where the first such call came from.
    draft: rule text that is right as it stands and splits nothing; "" where no rule can speak of it.
    """

    operator: str
    calls: int
    why: str
    source: str
    module: str
    draft: str


def gaps(captured: Captured, book: RuleBook, maps: Iterable[Map] = ()) -> list[MissingRule]:
    """Every operator of the graph that lacks a rule, in order of first use.

    What modules under `maps` do runs per shard as it stands and needs none.
    """
    patterns = [m.module for m in maps]
    by_operator: dict[str, MissingRule] = {}
    for node in operator_calls(captured.graph):
        if not tensors_of(node.meta.get("val")):
            continue
        if any(matches(pattern, path) for pattern in patterns for path in paths_of(node)):
            continue
        gap = gap_of(node, captured, book)
        if gap is not None:
            known = by_operator.get(gap.operator)
            by_operator[gap.operator] = gap if known is None else attrs.evolve(known, calls=known.calls + 1)
    return list(by_operator.values())


def operator_calls(graph: fx.GraphModule) -> Iterator[fx.Node]:
    """A graph's calls, and those in the bodies of autograd.Functions."""
    for node in graph.graph.nodes:
        if node.op == "call_function":
            own = own_of(node)
            for body in (own.forward, own.backward) if own is not None else ():
                yield from operator_calls(body)
            yield node


def gap_of(node: fx.Node, captured: Captured, book: RuleBook) -> MissingRule | None:
    """What one call lacks."""
    source, module = captured.source(node), captured.module(node)
    target = node.target
    if not isinstance(target, OpOverload):
        if not isinstance(target, HigherOrderOperator):
            return None
        why = "it takes functions and has no schema: no rule can speak of it, it runs whole"
        return MissingRule(str(target), 1, why, source, module, "")
    args, kwargs = values((node.args, node.kwargs))
    try:
        book.bind(target, args, kwargs, node.meta["val"])
    except RuleError as error:
        draft = draft_rule(op_name(target), make_call(target, args, kwargs, node.meta["val"]))
        return MissingRule(op_name(target), 1, error.problems[0].what, source, module, draft)
    return None


def values(args: Any) -> Any:
    """Arguments with every node replaced by its fake value."""
    return fx.map_arg(args, lambda n: n.meta["val"])


def gap_text(gap: MissingRule) -> str:
    """A gap as a few lines: the operator, where it is called, the draft."""
    calls = f"{gap.calls} call" + ("" if gap.calls == 1 else "s")
    where = gap.source or "an operator that autosp added"
    lines = [f"{gap.operator}  {calls}  {gap.why}", f"  {where}" + (f"  (module {gap.module})" if gap.module else "")]
    return "\n".join([*lines, *(f"  {line}" for line in gap.draft.split("\n") if line)])
