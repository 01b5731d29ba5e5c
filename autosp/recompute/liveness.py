"""The peak of memory, by the lifetimes of storages in the two programs that run.

A storage lives from the operator that makes it to the last operator that reads it or a view of it;
what crosses lives from its maker in the forward to its last reader in the backward. Inputs of the
forward and gradients of inputs are not counted: they are the model's states, or the user's.
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
    """Bytes at the fullest moment of one program. held: of what crosses; transient: of the rest."""

    held: int
    transient: int
    at: fx.Node | None

    @property
    def bytes(self) -> int:
        return self.held + self.transient


def peaks(joint: Joint, s: Schedule) -> tuple[Peak, Peak]:
    """The fullest moments of forward and backward."""
    crossing = {x.id for x in s.saved}
    ends = {x.id for n in joint.outputs for x in joint.of.get(n, ())}
    forward = _walk(joint, s.forward, start=frozenset(), keep=crossing | ends, crossing=crossing)
    backward = _walk(joint, s.backward, start=s.saved, keep=frozenset(), crossing=crossing)
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


def _walk(joint: Joint, nodes, start, keep, crossing) -> Peak:
    last: dict[int, int] = {}
    for i, n in enumerate(nodes):
        for x in (*joint.needs.get(n, ()), *joint.of.get(n, ())):
            last[x.id] = i
    dies: dict[int, list[Storage]] = {}
    for i, n in enumerate(nodes):
        for x in (*joint.needs.get(n, ()), *joint.of.get(n, ())):
            if last.get(x.id) == i:
                dies.setdefault(i, []).append(x)
                del last[x.id]
    alive = {x.id: x.bytes for x in start}
    held = sum(alive.values())
    transient, best = 0, Peak(held, 0, nodes[0] if nodes else None)
    for i, n in enumerate(nodes):
        for x in joint.makes.get(n, ()):
            if x.id in alive or x.given or x.id in joint.gradients:
                continue
            alive[x.id] = x.bytes
            if x.id in crossing:
                held += x.bytes
            else:
                transient += x.bytes
        if held + transient > best.bytes:
            best = Peak(held, transient, n)
        for x in dies.get(i, ()):
            if x.id in alive and x.id not in keep:
                size = alive.pop(x.id)
                if x.id in crossing:
                    held -= size
                else:
                    transient -= size
    return best
