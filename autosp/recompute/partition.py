"""The partitioner that runs a choice: the seam that AOTAutograd and Inductor offer for it.

A choice is made on one trace of the joint graph and applied to another (Inductor's own, another
rank's), so it names operators by where they stand: module, operator, ordinal.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator

import attrs
import torch
from torch import fx

from ..compat.torch import (
    CustomPartitionerFn,
    OrderedSet,
    aot_settings,
    enable_activation_offloading,
    extract_fwd_bwd_modules,
    fx_graph_cse,
    raise_getitems,
    reordering_to_mimic_autograd_engine,
)
from . import kinds
from .joint import Joint, Storage, layer_of, read_joint
from .schedule import schedule

Key = tuple[str, str, int, int]  # layer, operator, its ordinal among these, position in its results


@attrs.frozen
class Choice:
    """What crosses from forward to backward, and which attentions and collectives run twice.

    Both by name, alike on all ranks. offload: what leaves a layer crosses in the host's memory.
    """

    saved: frozenset[Key] = attrs.field(repr=False)
    twice: frozenset[Key] = attrs.field(repr=False)
    plan: str = ""
    offload: bool = False

    def __reduce__(self) -> tuple:
        """In an order of its own: Inductor keys its caches on the pickled partitioner, and a set's order changes from
        process to process."""
        return _sorted_choice, (sorted(self.saved), sorted(self.twice), self.plan, self.offload)

    def fingerprint(self) -> str:
        """What keys a compiler's caches."""
        text = repr((sorted(self.saved), sorted(self.twice), self.plan, self.offload))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sorted_choice(saved: Iterable[Key], twice: Iterable[Key], plan: str, offload: bool) -> Choice:
    return Choice(frozenset(saved), frozenset(twice), plan, offload)


def named(joint: Joint) -> dict[Key, Storage]:
    """What the forward's operators make, by name."""
    seen: Counter = Counter()
    by_name = {}
    for n in joint.forward:
        made = joint.makes.get(n, ())
        if made:
            place = (layer_of(n) or "", kinds.name_of(n))
            for i, s in enumerate(made):
                by_name[*place, seen[place], i] = s
            seen[place] += 1
    return by_name


def choice_of(
    joint: Joint, saved: Iterable[int], again: Iterable[fx.Node], plan: str = "", offload: bool = False
) -> Choice:
    """A choice by name."""
    saved, again = set(saved), set(again)
    names = named(joint)
    return Choice(
        frozenset(k for k, s in names.items() if s.id in saved),
        frozenset(k for k, s in names.items() if s.maker in again and protected(s.maker)),
        plan,
        offload,
    )


def protected(n: fx.Node) -> bool:
    """What is never run twice unless a choice says so."""
    return kinds.is_attention(n) or kinds.is_collective(n) or kinds.runs_once(n)


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
        s = schedule(joint, saved_by(joint, self.choice), self.choice.offload)
        inputs = [n for n in s.inputs if n not in joint.numbers]
        forward, backward = extract_fwd_bwd_modules(
            gm, [*inputs, *(x.head for x in s.saved)], list(s.numbers), num_fwd_outputs=num_fwd_outputs
        )
        backward = reordering_to_mimic_autograd_engine(backward)
        if s.offloaded:
            offload(forward, backward, num_fwd_outputs, {x.head.name for x in s.saved if x.id in s.offloaded})
        return raise_getitems(forward), raise_getitems(backward)

    def uuid(self) -> str:
        """Keys Inductor's caches on the plan and the choice."""
        return f"autosp-{self.choice.fingerprint()}"


def offload(forward: fx.GraphModule, backward: fx.GraphModule, num_fwd_outputs: int, names: set[str]) -> None:
    """PyTorch's own offloading of what the forward saves under these names: copies to pinned memory of the
    host on a stream of their own, and back a layer ahead, where there is a device that has streams."""
    for node in forward.graph.nodes:
        node.meta["should_offload"] = node.name in names
    streams = torch.cuda.is_available()
    asynchronous = dict.fromkeys(
        ("activation_offload_separate_stream", "activation_offload_sink_wait", "activation_reload_prefetch"), streams
    )
    with aot_settings(**asynchronous), _only_nodes(forward.graph):
        enable_activation_offloading(forward, backward, num_fwd_outputs, OrderedSet())
    forward.recompile()
    backward.recompile()


@contextlib.contextmanager
def _only_nodes(graph: fx.Graph) -> Iterator[None]:
    """The graph with a value in place of every output that is none, which PyTorch's offloading cannot read."""
    values = list(graph.output_node().args[0])
    some = next(v for v in values if isinstance(v, fx.Node))
    graph.output_node().args = (tuple(v if isinstance(v, fx.Node) else some for v in values),)
    yield
    now = graph.output_node().args[0]
    graph.output_node().args = (tuple(n if isinstance(v, fx.Node) else v for v, n in zip(values, now, strict=True)),)


def tidy(gm: fx.GraphModule) -> None:
    """What PyTorch's own partitioner does first: no dead code, no call made twice."""
    gm.graph.eliminate_dead_code()
    gm.graph = fx_graph_cse(gm.graph)
    gm.recompile()


__all__ = ["Choice", "Partitioner", "choice_of", "named", "protected", "saved_by", "tidy"]
