"""From what is saved to what runs: the forward's operators, and the backward's with those run again."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import attrs
from torch import fx

from . import kinds
from .joint import Joint, Storage, crosses_layers


@attrs.frozen(eq=False)
class Schedule:
    """The two programs that a choice gives, each in the order in which it runs.

    saved: the storages that cross from forward to backward; inputs, numbers: inputs of the forward
    and sizes that the backward reads as well.
    again: operators of the forward that the backward runs again. offloaded: storages that cross in the
    host's memory: the residual stream, which leaves its layers.
    """

    forward: tuple[fx.Node, ...]
    backward: tuple[fx.Node, ...]
    saved: tuple[Storage, ...]
    inputs: tuple[fx.Node, ...]
    numbers: tuple[fx.Node, ...]
    again: tuple[fx.Node, ...]
    offloaded: frozenset[int] = frozenset()


def schedule(joint: Joint, saved: Collection[int], offload: bool = False) -> Schedule:
    """The programs where the storages `saved` cross. What the backward needs beyond them it runs again."""
    heads = {s.head for s in joint.saveable if s.id in saved}
    had = heads | joint.numbers
    in_backward = _ancestors(joint.results, had)
    crossing = tuple(s for s in joint.saveable if s.head in heads and s.head in in_backward)
    in_forward = _ancestors((*joint.outputs, *(s.head for s in crossing)), frozenset())
    read = in_backward - had - set(joint.tangents)
    again = tuple(n for n in joint.forward if n in in_backward and n not in had)
    return Schedule(
        forward=tuple(raised(n for n in joint.nodes if n in in_forward and n.op == "call_function")),
        backward=tuple(raised(_as_needed(joint, in_backward, had))),
        saved=crossing,
        inputs=tuple(n for n in joint.nodes if n.op == "placeholder" and n in read),
        numbers=tuple(n for n in joint.nodes if n in joint.numbers and n in in_backward),
        again=again,
        offloaded=frozenset(s.id for s in crossing if offload and crosses_layers(s)),
    )


def _ancestors(ends: Iterable[fx.Node], stop: Collection[fx.Node]) -> set[fx.Node]:
    """All that `ends` need, themselves included; what `stop` holds is had and not looked behind."""
    reached: set[fx.Node] = set()
    stack = list(ends)
    while stack:
        node = stack.pop()
        if node not in reached:
            reached.add(node)
            if node not in stop:
                stack += node.all_input_nodes
    return reached


def _as_needed(joint: Joint, needed: set[fx.Node], had: Collection[fx.Node]) -> list[fx.Node]:
    """The backward's order: that of autograd, and what is run again just before its first use, as
    PyTorch's `reordering_to_mimic_autograd_engine` has it."""
    order = {n: i for i, n in enumerate(joint.nodes)}
    begins = min((order[u] for t in joint.tangents for u in t.users if u in needed), default=0)
    done: set[fx.Node] = set(had)
    calls: list[fx.Node] = []
    for node in joint.nodes[begins:]:
        if node not in needed or node in done:
            continue
        group, stack = set(), [node]
        while stack:
            n = stack.pop()
            if n not in done and n not in group:
                group.add(n)
                stack += n.all_input_nodes
        done |= group
        calls += sorted((n for n in group if n.op == "call_function"), key=order.__getitem__)
    return calls


def raised(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Items of a tuple right behind it, so that the tuple holds none longer than its users do."""
    nodes = list(nodes)
    items: dict[fx.Node, list[fx.Node]] = {}
    for n in nodes:
        if kinds.is_item(n):
            items.setdefault(n.args[0], []).append(n)
    result: list[fx.Node] = []
    there = set(nodes)
    for n in nodes:
        if kinds.is_item(n) and n.args[0] in there:
            continue
        stack = [n]
        while stack:
            m = stack.pop(0)
            result.append(m)
            stack += items.get(m, ())
    return result
