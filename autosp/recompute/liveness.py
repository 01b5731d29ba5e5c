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

from ..collector import uncollected
from . import kinds
from .compiler import Compiler
from .fuse import fused
from .joint import Joint, Storage, crosses_layers
from .order import ordered
from .reuse import reserved_bytes
from .runs import Run, one_by_one
from .schedule import Schedule

EAGER = Compiler()


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


@uncollected
def peaks(joint: Joint, s: Schedule, *, gradients: bool = True, compiler: Compiler = EAGER) -> tuple[Peak, Peak]:
    """The fullest moments of forward and backward, with the gradients of inputs or without them.

    compiler: what runs them; its kernels are a model of Inductor's (`fuse`).
    """
    crossing = {x.id for x in s.saved}
    ends = {x.id for n in joint.outputs for x in joint.of.get(n, ())}
    away = s.offloaded
    first = _runs(joint, s.forward, (), crossing | ends, compiler)
    forward = _walk(joint, first, (), (crossing | ends) - away, crossing, gradients, compiler)
    here = tuple(x for x in s.saved if x.id not in away)
    second = _runs(joint, s.backward, here, joint.gradients, compiler)
    backward = _walk(joint, second, here, joint.gradients, crossing, gradients, compiler, away)
    return forward, backward


def peak(joint: Joint, s: Schedule, compiler: Compiler = EAGER) -> tuple[Peak, str]:
    """The fuller of the two, and its name."""
    forward, backward = peaks(joint, s, compiler=compiler)
    return (forward, "forward") if forward.bytes > backward.bytes else (backward, "backward")


def saved_by_kind(s: Schedule) -> Mapping[str, int]:
    """Bytes that cross, by the kind of operator that made them; a layer's output is the residual."""
    by_kind: dict[str, int] = {}
    for x in s.saved:
        word = kinds.kind(x.maker)
        if word in ("other", "matmul") and crosses_layers(x):
            word = "residual"
        by_kind[word] = by_kind.get(word, 0) + x.bytes
    return dict(sorted(by_kind.items(), key=lambda item: -item[1]))


def _runs(joint: Joint, nodes, start, keep, compiler: Compiler) -> tuple[Run, ...]:
    if not compiler.fuses:
        return one_by_one(joint, nodes, compiler.device)
    return ordered(fused(joint, nodes, keep, compiler.device), start, keep)


def _walk(
    joint: Joint, runs, start, keep, crossing, with_gradients: bool, compiler: Compiler, away=frozenset()
) -> Peak:
    dies = deaths(runs)
    waiting = reserved_bytes(runs, start, keep) if compiler.fuses else [0] * len(runs)
    alive = {x.id: x.bytes for x in start}
    now = {"held": sum(alive.values()), "transient": 0, "gradients": 0}
    best = Peak(**now, at=runs[0].at if runs else None)

    def part(x: Storage) -> str:
        return "gradients" if x.id in joint.gradients else "held" if x.id in crossing else "transient"

    for i, run in enumerate(runs):
        ends = {x.id: x for x in dies.get(i, ()) if x.id not in keep}
        for _, old in run.over:
            if old.id in ends and old.id in alive:
                now[part(old)] -= alive.pop(old.id)
        back = (x for x in run.needs if x.id in away)
        for x in (*back, *run.makes):
            if x.id not in alive and not x.is_input and (with_gradients or x.id not in joint.gradients):
                alive[x.id] = x.bytes
                now[part(x)] += x.bytes
        own = waiting[i] + run.own
        if sum(now.values()) + own > best.bytes:
            best = Peak(now["held"], now["transient"] + own, now["gradients"], run.at)
        for x in ends.values():
            if x.id in alive:
                now[part(x)] -= alive.pop(x.id)
    return best


def deaths(runs) -> dict[int, list[Storage]]:
    """The storages that no run after the i-th one touches."""
    last: dict[int, tuple[int, Storage]] = {}
    for i, run in enumerate(runs):
        for x in (*run.needs, *run.makes):
            last[x.id] = i, x
    dead: dict[int, list[Storage]] = {}
    for i, x in last.values():
        dead.setdefault(i, []).append(x)
    return dead
