"""The peak of memory, by the lifetimes of storages in the two programs that run.

A storage lives from the operator that makes it to the last operator that reads it or a view of it;
what crosses lives from its maker in the forward to its last reader in the backward. A gradient of
an input lives from its maker to the end of the backward, which returns all of them together. What
is offloaded crosses in the host's memory: it lives to its last reader in the forward, and again from its
first reader in the backward.
Inputs of the forward are not counted: they are the model's states, or the user's.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from torch import fx

from . import kinds
from .joint import Joint, Storage, crosses_layers
from .schedule import Schedule


@attrs.frozen
class Peak:
    """Bytes at the fullest moment of one program. held: of what crosses; gradients: of the gradients
    made so far; transient: of the rest; at: the operator that runs then."""

    held: int
    transient: int
    gradients: int
    at: fx.Node | None

    @property
    def bytes(self) -> int:
        return self.held + self.transient + self.gradients


def peaks(joint: Joint, s: Schedule, *, gradients: bool = True) -> tuple[Peak, Peak]:
    """The fullest moments of forward and backward, with the gradients of inputs or without them."""
    crossing = {x.id for x in s.saved}
    ends = {x.id for n in joint.outputs for x in joint.of.get(n, ())}
    away = s.offloaded
    forward = _walk(joint, s.forward, (), (crossing | ends) - away, crossing, gradients)
    here = tuple(x for x in s.saved if x.id not in away)
    backward = _walk(joint, s.backward, here, joint.gradients, crossing, gradients, away)
    return forward, backward


def peak(joint: Joint, s: Schedule) -> tuple[Peak, str]:
    """The fuller of the two, and its name."""
    forward, backward = peaks(joint, s)
    return (forward, "forward") if forward.bytes > backward.bytes else (backward, "backward")


def saved_by_kind(s: Schedule) -> Mapping[str, int]:
    """Bytes that cross, by the kind of operator that made them; a layer's output is the residual."""
    found: dict[str, int] = {}
    for x in s.saved:
        word = kinds.kind(x.maker)
        if word in ("other", "matmul") and crosses_layers(x):
            word = "residual"
        found[word] = found.get(word, 0) + x.bytes
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _walk(joint: Joint, nodes, start, keep, crossing, with_gradients: bool, away=frozenset()) -> Peak:
    dies = _deaths(joint, nodes)
    alive = {x.id: x.bytes for x in start}
    held = sum(alive.values())
    now = {"held": held, "transient": 0, "gradients": 0}
    best = Peak(**now, at=nodes[0] if nodes else None)

    def part(x: Storage) -> str:
        return "gradients" if x.id in joint.gradients else "held" if x.id in crossing else "transient"

    for i, n in enumerate(nodes):
        back = (x for x in joint.needs.get(n, ()) if x.id in away)
        for x in (*back, *joint.makes.get(n, ())):
            if x.id not in alive and not x.given and (with_gradients or x.id not in joint.gradients):
                alive[x.id] = x.bytes
                now[part(x)] += x.bytes
        if sum(now.values()) > best.bytes:
            best = Peak(**now, at=n)
        for x in dies.get(i, ()):
            if x.id in alive and x.id not in keep:
                now[part(x)] -= alive.pop(x.id)
    return best


def _deaths(joint: Joint, nodes) -> dict[int, list[Storage]]:
    """The storages that no operator after the i-th one touches."""
    last: dict[int, tuple[int, Storage]] = {}
    for i, n in enumerate(nodes):
        for x in (*joint.needs.get(n, ()), *joint.of.get(n, ())):
            last[x.id] = i, x
    found: dict[int, list[Storage]] = {}
    for i, x in last.values():
        found.setdefault(i, []).append(x)
    return found
