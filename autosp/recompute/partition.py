"""The partitioner that runs a choice: the seam that AOTAutograd and Inductor offer for it.

A choice is made on one trace of the joint graph and applied to another (Inductor's own, another
rank's), so it names operators by where they stand: module, operator, ordinal.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

import attrs
from torch import fx
from torch._functorch import partitioners
from torch._functorch.compile_utils import fx_graph_cse
from torch._inductor.custom_graph_pass import CustomPartitionerFn

from . import kinds
from .joint import Joint, Storage, layer_of, read_joint
from .schedule import schedule

Key = tuple[str, str, int, int]  # layer, operator, its ordinal among these, position in its results


@attrs.frozen
class Choice:
    """What crosses from forward to backward, and which attentions and collectives run twice.

    Both by name, alike on all ranks. fingerprint: of the plan and of the choice.
    """

    saved: frozenset[Key] = attrs.field(repr=False)
    twice: frozenset[Key] = attrs.field(repr=False)
    plan: str = ""

    def fingerprint(self) -> str:
        """What keys a compiler's caches."""
        text = repr((sorted(self.saved), sorted(self.twice), self.plan))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def named(joint: Joint) -> dict[Key, Storage]:
    """What the forward's operators make, by name."""
    seen: Counter = Counter()
    found = {}
    for n in joint.forward:
        made = joint.makes.get(n, ())
        if made:
            place = (layer_of(n) or "", kinds.name_of(n))
            for i, s in enumerate(made):
                found[*place, seen[place], i] = s
            seen[place] += 1
    return found


def choice_of(joint: Joint, saved: Iterable[int], again: Iterable[fx.Node], plan: str = "") -> Choice:
    """A choice by name."""
    saved, again = set(saved), set(again)
    names = named(joint)
    return Choice(
        frozenset(k for k, s in names.items() if s.id in saved),
        frozenset(k for k, s in names.items() if s.maker in again and protected(s.maker)),
        plan,
    )


def protected(n: fx.Node) -> bool:
    """What is never run twice unless a choice says so."""
    return kinds.is_attention(n) or kinds.is_collective(n) or kinds.is_random(n)


def saved_by(joint: Joint, choice: Choice) -> frozenset[int]:
    """The storages of this joint graph that cross by a choice: those that it names, and all that
    draws, attention and collectives make of which it does not say that they run twice."""
    return frozenset(
        s.id for k, s in named(joint).items() if k in choice.saved or (k not in choice.twice and protected(s.maker))
    )


@attrs.define(eq=False)
class Partitioner(CustomPartitionerFn):
    """Cuts joint graphs by a choice."""

    choice: Choice

    def __call__(
        self, gm: fx.GraphModule, joint_inputs, *, num_fwd_outputs: int, static_lifetime_input_indices=None, **_
    ) -> tuple[fx.GraphModule, fx.GraphModule]:
        tidy(gm)
        joint = read_joint(gm, num_fwd_outputs)
        s = schedule(joint, saved_by(joint, self.choice))
        inputs = [n for n in s.inputs if n not in joint.numbers]
        forward, backward = partitioners._extract_fwd_bwd_modules(
            gm, [*inputs, *(x.head for x in s.saved)], list(s.numbers), num_fwd_outputs=num_fwd_outputs
        )
        backward = partitioners.reordering_to_mimic_autograd_engine(backward)
        return partitioners.raise_getitems(forward), partitioners.raise_getitems(backward)

    def uuid(self) -> str:
        """Keys Inductor's caches on the plan and the choice."""
        return f"autosp-{self.choice.fingerprint()}"


def tidy(gm: fx.GraphModule) -> None:
    """What PyTorch's own partitioner does first: no dead code, no call made twice."""
    gm.graph.eliminate_dead_code()
    gm.graph = fx_graph_cse(gm.graph)
    gm.recompile()


__all__ = ["Choice", "Partitioner", "choice_of", "named", "protected", "saved_by", "tidy"]
