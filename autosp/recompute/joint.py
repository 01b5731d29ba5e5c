"""The joint forward and backward graph of one rank as operators and storages.

A *storage* is one allocation; views, `wait_tensor` and the items of a tuple share or name it. What
crosses from forward to backward is counted by storage, once.
"""

from __future__ import annotations

import re
from collections.abc import Hashable

import attrs
import torch
from torch import fx

from ..capture import source_line, tensors_of
from ..capture.captured import paths_of
from ..compat.torch import example_size, storage_id
from ..folding import STORAGES, descendants
from . import kinds

_NUMBERS = (torch.SymInt, torch.SymFloat, torch.SymBool)
_LAYER = re.compile(r"(^|\.)\d+(?=\.|$)")


@attrs.define(eq=False)
class Storage:
    """One allocation. maker: the operator that makes it, or a placeholder. head: the first node
    whose value it is, which all its views come from. bytes: on this rank."""

    id: int
    maker: fx.Node
    head: fx.Node
    bytes: int
    layer: str | None

    @property
    def is_input(self) -> bool:
        """Whether it is an input of the forward: held anyway."""
        return self.maker.op in ("placeholder", "get_attr")


@attrs.frozen(eq=False)
class Joint:
    """A joint graph, read.

    forward: operators that no tangent reaches, in order: each may be saved or run again. backward:
    the others. of: the storages of a node's value. makes: the storages that an operator makes.
    needs: the storages that an operator reads. gradients: storages that end as gradients of
    inputs. numbers: symbolic sizes, which cross for nothing. inputs: how many inputs the forward
    has. outputs: the forward's outputs; results: the backward's. facts: what is known of single nodes, by who asks.
    """

    nodes: tuple[fx.Node, ...]
    forward: tuple[fx.Node, ...]
    backward: tuple[fx.Node, ...]
    tangents: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]
    results: tuple[fx.Node, ...]
    storages: tuple[Storage, ...]
    of: dict[fx.Node, tuple[Storage, ...]]
    makes: dict[fx.Node, tuple[Storage, ...]]
    needs: dict[fx.Node, tuple[Storage, ...]]
    gradients: frozenset[int]
    numbers: frozenset[fx.Node]
    inputs: int
    facts: dict = attrs.field(factory=dict, repr=False)

    @property
    def saveable(self) -> tuple[Storage, ...]:
        """What operators of the forward make."""
        return tuple(s for n in self.forward for s in self.makes.get(n, ()))


def read_joint(gm: fx.GraphModule, num_fwd_outputs: int) -> Joint:
    """The joint graph as AOTAutograd gives it to a partitioner, on fake tensors."""
    nodes = tuple(gm.graph.nodes)
    tangents = tuple(n for n in nodes if n.op == "placeholder" and "tangents" in str(n.target))
    reached = descendants(tangents)
    ends = gm.graph.output_node().args[0]
    outputs = tuple(n for n in ends[:num_fwd_outputs] if isinstance(n, fx.Node))
    results = tuple(n for n in ends[num_fwd_outputs:] if isinstance(n, fx.Node))
    storages, of, makes = _storages(nodes)
    needs = {n: _unique(s for i in n.all_input_nodes for s in of.get(i, ())) for n in nodes if n.op == "call_function"}
    return Joint(
        nodes=nodes,
        forward=tuple(n for n in nodes if n.op in ("call_function", "get_attr") and n not in reached),
        backward=tuple(n for n in nodes if n.op == "call_function" and n in reached),
        tangents=tangents,
        outputs=outputs,
        results=results,
        storages=tuple(storages),
        of=of,
        makes=makes,
        needs=needs,
        gradients=frozenset(s.id for n in results for s in of.get(n, ())),
        numbers=frozenset(n for n in nodes if n not in reached and isinstance(n.meta.get("val"), _NUMBERS)),
        inputs=len(ends) - num_fwd_outputs,
    )


def _storages(nodes):
    """Every allocation, by the identity of fake storages; a wait's is its collective's."""
    storages: list[Storage] = []
    by_key: dict[Hashable, Storage] = {}
    of: dict[fx.Node, tuple[Storage, ...]] = {}
    makes: dict[fx.Node, list[Storage]] = {}
    for node in nodes:
        if node.op == "output":
            continue
        if kinds.is_wait(node):
            of[node] = of[node.args[0]]
            for s, (_, key) in zip(of[node], _tensors(node), strict=True):
                s.head = node  # the collective's own value is not ready before
                by_key[key] = s  # views of it are views of that
            continue
        own = []
        for t, key in _tensors(node):
            if key not in by_key:
                maker = _maker(node)
                s = Storage(len(storages), maker, node, _bytes(t), layer_of(maker))
                by_key[key] = s
                storages.append(s)
                makes.setdefault(maker, []).append(s)
            elif kinds.is_item(node) and by_key[key].maker is node.args[0]:
                by_key[key].head = node
            own.append(by_key[key])
        of[node] = _unique(own)
    return storages, of, {n: tuple(own) for n, own in makes.items()}


def _tensors(node: fx.Node) -> list[tuple[torch.Tensor, Hashable]]:
    """The tensors of a node's value, each with what its storage goes by."""
    tensors = tensors_of(node.meta.get("val"))
    return list(zip(tensors, node.meta.get(STORAGES) or map(storage_id, tensors), strict=True))


def _maker(node: fx.Node) -> fx.Node:
    while kinds.is_item(node):
        node = node.args[0]  # pyrefly: ignore[bad-assignment]
    return node


def _unique(storages) -> tuple[Storage, ...]:
    return tuple({s.id: s for s in storages}.values())


def _bytes(t: torch.Tensor) -> int:
    size = t.untyped_storage().nbytes()
    return int(example_size(size))


def layer_of(node: fx.Node) -> str | None:
    """The repeated module that a node stands in, up to the first number of its path: `model.layers.3`."""
    for path in reversed(paths_of(node)):
        if (match := _LAYER.search(path)) is not None:
            return path[: match.end()]
    return None


def where(node: fx.Node) -> str:
    """The module and the user's line of a node, for a reader."""
    paths = paths_of(node) or paths_of(node, "fwd_nn_module_stack")
    module = next((path for path in reversed(paths) if path), "")
    line = source_line(node)
    return f"{kinds.name_of(node)} in {module or '<root>'}" + (f" ({line})" if line else "")


def crosses_layers(s: Storage) -> bool:
    """Whether a value made in one repeated module is read elsewhere in the forward."""
    return s.layer is not None and any(
        layer_of(u) != s.layer for u in s.head.users if u.op == "call_function" and "nn_module_stack" in u.meta
    )
