"""In-place operators as functional ones: every write makes a new value, which its aliases follow.

Tensors alias where their fake values share storage. A write to a view goes up to the tensor that
owns the storage, through the inverse of each view, and down again into every alias that is read
later. What cannot be proved to mean the same is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import fx

from ..compat.torch import ENTER_AUTOCAST, EXIT_AUTOCAST, SET_GRAD_ENABLED, storage_id
from ..errors import CaptureError, Problem
from ..rules import is_a, traits
from ..rules.inplace import functional_form, is_mutable
from . import messages
from .autograd import Autograd
from .captured import Placeholder, tensors_of
from .inplace import (
    autocast_changes,
    copied,
    invertible,
    is_inplace_view,
    returns_its_input,
    silent_writes,
    undone,
    written_by,
)

aten = torch.ops.aten


def functionalise(
    gm: fx.GraphModule, placeholders: Sequence[Placeholder], training: bool, hints: Mapping | None = None
) -> dict[str, fx.Node]:
    """Replace every in-place operator of the graph; gives the new value of every buffer that is written, by
    placeholder. These become outputs of the graph, behind its own. hints: the numbers that symbolic sizes had.

    Raises CaptureError for operators that have to stay.
    """
    calls = [n for n in gm.graph.nodes if n.op == "call_function"]
    if not any(is_mutable(n.target) or silent_writes(n) for n in calls):
        return {}
    run = Functionaliser(gm.graph, {p.node: p for p in placeholders}, training, hints or {})
    run.all()
    if run.faults:
        raise CaptureError(run.faults)
    written = run.buffers()
    output = gm.graph.output_node()
    output.args = ((*output.args[0], *written.values()),)
    gm.graph.eliminate_dead_code()
    gm.graph.lint()
    gm.recompile()
    return written


@attrs.define(eq=False)
class Alias:
    """A tensor that may be written, or a view of one.

    node: what gives its value as of now. origin: what gave it first; for a view, `given` are its
    arguments then, among them `via`, its parent. last: the place of its last reader.
    """

    node: fx.Node
    origin: fx.Node
    storage: int
    last: int
    parent: Alias | None = None
    given: tuple = ()
    via: fx.Node | None = None

    @property
    def chain(self) -> list[Alias]:
        """Itself, what it is a view of, and so on to the owner of the storage."""
        return [self, *(self.parent.chain if self.parent else ())]


@attrs.define(eq=False)
class Functionaliser:
    """One pass over a graph, in order. `flows` are the nodes whose value has a gradient, `casts` the
    autocast regions that the pass is in, `lost` the storages that an operator without a form has written."""

    graph: fx.Graph
    inputs: dict[str, Placeholder]
    training: bool
    hints: Mapping
    autograd: Autograd = attrs.field(init=False, factory=Autograd)
    grad: bool = attrs.field(init=False)
    casts: list[tuple] = attrs.field(init=False, factory=list)
    now: int = attrs.field(init=False, default=0)
    flows: set[fx.Node] = attrs.field(init=False, factory=set)
    aliases: dict[fx.Node, Alias] = attrs.field(init=False, factory=dict)
    groups: dict[int, list[Alias]] = attrs.field(init=False, factory=dict)
    same: dict[int, int] = attrs.field(init=False, factory=dict)
    lost: set[int] = attrs.field(init=False, factory=set)
    faults: list[Problem] = attrs.field(init=False, factory=list)

    def all(self) -> None:
        """Visit every node. Readers are counted before any node is rewritten."""
        self.grad = self.training
        nodes = list(self.graph.nodes)
        place = {n: i for i, n in enumerate(nodes)}
        last = {n: max((place[u] for u in n.users), default=-1) for n in nodes}
        written = []
        for self.now, node in enumerate(nodes):
            before = list(node.all_input_nodes)
            writes = node.op == "call_function" and is_mutable(node.target)
            owner = written_by(node) if writes else None
            if is_a(node, "strided") and self.current(before[0]) is not before[0]:
                node.target = anywhere(node.target)  # the new value may lie otherwise in memory
            node.args = fx.map_arg(node.args, self.current)
            node.kwargs = fx.map_arg(node.kwargs, self.current)
            if writes:
                written.append(node)
                self.write(node, self.aliases.get(owner), last[node])
            elif node.op != "output":
                self.read(node, before, last[node])
        if not self.faults:
            for node in reversed(written):
                self.graph.erase_node(node)

    def current(self, node: fx.Node) -> fx.Node:
        """What gives the node's value now."""
        return self.aliases[node].node if node in self.aliases else node

    def read(self, node: fx.Node, before: list[fx.Node], last: int) -> None:
        """A node that writes nothing: it owns its result, or views an operand."""
        if node.target is SET_GRAD_ENABLED:
            self.grad = bool(node.args[0]) and self.training
        if node.target is ENTER_AUTOCAST:
            self.casts.append(node.args)
        if node.target is EXIT_AUTOCAST:
            self.casts.pop()
        for owner in silent_writes(node):
            self.faults.append(self.refused(node, owner))
        if node.op == "placeholder" and self.grad and self.inputs[node.name].requires_grad:
            self.flows.add(node)
        self.note_flow(node)
        storages = {storage_of(t) for t in tensors_of(node.meta.get("val"))}
        if len(storages) == 1 and None not in storages:
            self.add(node, before, storages.pop(), last)

    def add(self, node: fx.Node, before: list[fx.Node], storage: int, last: int) -> None:
        """Note what the node's value shares memory with."""
        found = [self.aliases[n] for n in before if n in self.aliases]
        if returns_its_input(node):
            parent = self.aliases[before[0]]
            self.same[storage] = parent.storage
        else:
            parent = next((a for a in found if a.storage == self.same.get(storage, storage)), None)
        self.note(node, parent, self.same.get(storage, storage), last)

    def note(self, node: fx.Node, parent: Alias | None, storage: int, last: int) -> Alias:
        alias = Alias(node, node, storage, last, parent)
        if parent is not None:
            alias.given, alias.via = (node.args, node.kwargs), parent.node
        self.aliases[node] = alias
        self.groups.setdefault(storage, []).append(alias)
        return alias

    def note_flow(self, node: fx.Node) -> None:
        """Whether a gradient flows to what a call gives."""
        if node.op == "call_function" and any(self.autograd.flows(node, self.flows, self.hints, self.grad)):
            self.flows.add(node)

    def write(self, node: fx.Node, alias: Alias | None, last: int) -> None:
        """An in-place operator: the new value of what it writes, and of everything that aliases it."""
        form = functional_form(node.target)
        if alias is not None:
            self.aliases[node] = alias
        if form is None:
            self.faults.append(messages.no_form(node))
            self.lost |= {self.aliases[n].storage for n in node.all_input_nodes if n in self.aliases}
            return
        if alias is None:
            self.faults.append(messages.under_vmap(node))
            return
        if alias.storage in self.lost:
            return
        if is_inplace_view(node.target):
            if alias.origin.op in ("placeholder", "get_attr"):
                self.faults.append(self.refused(node, alias.origin))
                return
            if self.faults:
                return
            new = self.emit(form, node.args, node.kwargs, node)
            self.aliases[node] = self.note(new, alias, alias.storage, max(last, alias.last))
            return
        alias.last = max(alias.last, last)
        fault = next(self.reasons_against(node, alias), None)
        if fault is not None:
            self.faults.append(fault)
        if self.faults:  # the graph is given up: what comes is only looked at
            return
        emit, kwargs = partial(self.emit, at=node), {k: v for k, v in node.kwargs.items() if k != "out"}
        new = copied(*node.args[:2], emit) if "overwrite" in traits(form) else emit(form, node.args, kwargs)
        if new.meta["val"].dtype != alias.node.meta["val"].dtype:
            new = emit(aten.to.dtype, (new, alias.node.meta["val"].dtype), {})
        self.assign(alias, new, node)

    def reasons_against(self, node: fx.Node, alias: Alias) -> Iterator[Problem]:
        """Why a write cannot be followed."""
        owner = alias.chain[-1]
        if owner.origin.op == "placeholder":
            if not self.is_buffer(owner.origin):
                yield self.refused(node, owner.origin)
            elif self.grad and any(n in self.flows for n in node.all_input_nodes):
                yield messages.gradient_kept(node, self.inputs[owner.origin.name].name)
        elif owner.origin.op == "get_attr" or sum(a.parent is None for a in self.groups[owner.storage]) > 1:
            yield messages.shared(node)
        elif not self.grad and owner.node in self.flows:
            yield messages.without_gradient(node)
        if self.casts and self.casts[-1][2] and alias.node.meta["val"].is_floating_point():
            if autocast_changes(functional_form(node.target), self.casts[-1][0]):
                yield messages.cast(node)
        for view in alias.chain[:-1]:
            if is_a(view.origin, "detach") and view.parent.node in self.flows:
                yield messages.without_gradient(node)
            if not invertible(view.origin, view.parent.origin):
                yield messages.through_view(node, view.origin)

    def is_buffer(self, node: fx.Node) -> bool:
        """Whether a placeholder is a module's own tensor, which keeps what is written to it."""
        known = self.inputs.get(node.name)
        return known is not None and known.role == "buffer" and not known.requires_grad

    def buffers(self) -> dict[str, fx.Node]:
        """What the written buffers hold at the end, by placeholder."""
        owners = [a for group in self.groups.values() for a in group if a.parent is None]
        return {a.origin.name: a.node for a in owners if a.origin.op == "placeholder" and a.node is not a.origin}

    def refused(self, node: fx.Node, owner: fx.Node) -> Problem:
        """A write to a graph input, by the name that the user knows it by."""
        known = self.inputs.get(owner.name)
        if known and known.role == "buffer" and silent_writes(node):
            return messages.statistics(node, known.name)
        return messages.input_written(node, known.role if known else "input", known.name if known else owner.name)

    def assign(self, alias: Alias, new: fx.Node, at: fx.Node) -> None:
        """The value up the chain of views to the owner, then down into the aliases that are read later."""
        fresh = {alias}
        while alias.parent is not None:
            up = undone(alias.origin, alias.parent.origin, alias.parent.node, new, partial(self.emit, at=at))
            alias.node, alias, new = new, alias.parent, up
            fresh.add(alias)
        alias.node = new
        for other in self.groups[alias.storage]:
            if other not in fresh and self.needed(other):
                self.follow(other, at)

    def needed(self, alias: Alias) -> bool:
        """Whether the alias, or a view of it, is read later."""
        return alias.last > self.now or any(a.parent is alias and self.needed(a) for a in self.groups[alias.storage])

    def follow(self, alias: Alias, at: fx.Node) -> None:
        """The view taken again, of the new value."""
        source = alias.parent.node
        args, kwargs = fx.map_arg(alias.given, lambda n: source if n is alias.via else n)
        alias.node = self.emit(anywhere(alias.origin.target), args, kwargs, at, alias.origin)

    def emit(self, target, args: tuple, kwargs: dict, at: fx.Node, like: fx.Node | None = None) -> fx.Node:
        """A call before `at`, with its fake value, and the place in the user's code of `like`."""
        with self.graph.inserting_before(at):
            new = self.graph.call_function(target, args, kwargs)
        new.meta = {k: v for k, v in (like or at).meta.items() if k not in ("val", "tensor_meta")}
        given, named = fx.map_arg((new.args, new.kwargs), lambda n: n.meta["val"])
        mode = next(t.fake_mode for n in new.all_input_nodes for t in tensors_of(n.meta["val"]))
        with mode, torch.no_grad():
            new.meta["val"] = target(*given, **named)
        self.note_flow(new)
        return new


def anywhere(target: Any) -> Any:
    """The operator, or the one that does the same wherever its operand lies in memory."""
    return traits(target).operator_of("strided") or target


def storage_of(t: torch.Tensor) -> int | None:
    """What tells a tensor's memory from another's; None for one that has none of its own (under vmap)."""
    try:
        return storage_id(t)
    except NotImplementedError:
        return None
