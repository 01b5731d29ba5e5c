"""The trace of a whole graph, from that of a short one: equal parts are stamped as often as they are missing.

A trace runs through the parts in order and, in its backward, in the opposite order. It is stretched at one part: the
calls that it made for that part, forward and backward, are written once more for every part that is missing, with what
they read moved by as many parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Any

import attrs
from torch import fx

from ..capture.captured import tensors_of
from ..compat.torch import storage_id
from .runs import descendants, kind_of, node_operands
from .shorten import PART, Short

STORAGES = "autosp_storages"  # in a node's meta: what tells its tensors' storages apart
LIKE = "autosp_like"  # in a node's meta: the name of the traced node that it is a copy of
FORWARD, BACKWARD = 1, -1


class _Unlike(Exception):
    """The parts of a trace are not equal."""


@attrs.frozen
class _At:
    """Where a node of the trace stands: the run, the direction (0: an input that one part reads), and the part; in it,
    the call that it comes of, or before which the trace added it (then less than 0), and its ordinal among those."""

    run: int
    way: int
    part: int
    call: int
    ordinal: int

    @property
    def place(self) -> tuple[int, int]:
        return self.call, self.ordinal


def stretched(traced: fx.GraphModule, short: Short, whole: fx.GraphModule) -> fx.GraphModule | None:
    """The trace of `whole`, from the trace of `short.graph`; None where the parts in it are not alike.

    traced: a joint graph of forward and backward, on fake tensors: its first inputs are those of `short.graph`, then
    come the tangents; its outputs end with a gradient for each of these inputs. The stamped nodes share the fake
    tensors of those that they are copies of: `meta[STORAGES]` tells their storages apart, `meta[LIKE]` names the model.
    """
    try:
        return _Stretch(traced, short, whole).run()
    except _Unlike:
        return None


class _Stretch:
    """One trace, and the graph that is made of it.

    middle: the part at which it is stretched; those up to it keep their numbers, those after it move by the missing
    ones. at: where each node of the trace stands, and parts: the nodes of each part, for what belongs to one.
    """

    def __init__(self, traced: fx.GraphModule, short: Short, whole: fx.GraphModule):
        self.traced, self.short, self.whole = traced, short, whole
        self.middle = short.kept // 2
        self.nodes = list(traced.graph.nodes)
        self.order = {n: i for i, n in enumerate(self.nodes)}
        self.placeholders = traced.graph.find_nodes(op="placeholder")
        if any("tangents" in str(n.target) for n in self.placeholders[: len(short.inputs)]):
            raise _Unlike
        self.at: dict[fx.Node, _At] = {}
        self.parts: dict[tuple[int, int, int], dict[tuple[int, int], fx.Node]] = {}
        self.counts: Counter = Counter()
        self._place()
        self._check()
        self.turns = [self._turn(run) for run in range(len(short.runs))]
        self.owners: dict[int, tuple[fx.Node, int]] = {}
        for n in self.nodes:
            for i, t in enumerate(tensors_of(n.meta.get("val"))):
                self.owners.setdefault(storage_id(t), (n, i))
        self.graph = fx.Graph()
        self.made: dict[tuple[fx.Node, int], fx.Node] = {}  # by node of the trace, and part of the whole

    def extra(self, run: int) -> int:
        return self.short.missing(run)

    def _place(self) -> None:
        """Every node's part, which the trace carried over from the calls of the short graph; what a trace adds between
        two parts (sums of gradients) is of the second one."""
        for node, own in zip(self.placeholders, self.short.inputs):
            if own is not None:
                self._put(node, own[0], 0, own[1], own[2])
        reached = descendants(self.placeholders[len(self.short.inputs) :])
        turn = min((self.order[n] for n in reached if n.op != "placeholder"), default=len(self.nodes))
        for way, nodes in ((FORWARD, self.nodes[:turn]), (BACKWARD, self.nodes[turn:])):
            tags = [(n.meta.get("custom") or {}).get(PART) for n in nodes]
            after = list(accumulate(reversed(tags), lambda last, tag: tag or last))[::-1]
            before = accumulate(tags, lambda last, tag: tag or last)
            for n, tag, last, following in zip(nodes, tags, before, after):
                between = last and following and last[0] == following[0] and n.op == "call_function"
                if tag or between:
                    self._put(n, following[0], way, following[1], tag[2] if tag else -1 - following[2])
        for n, at in list(self.at.items()):
            if at.way and any(self._is_far(at, self.at.get(user)) for user in n.users):
                del self.at[n], self.parts[at.run, at.way, at.part][at.place]

    @staticmethod
    def _is_far(at: _At, user: _At | None) -> bool:
        """Whether a value is read by parts that are not the next one: what the trace computes once for all of them."""
        return user is not None and user.run == at.run and abs(user.part - at.part) > 1

    def _put(self, node: fx.Node, run: int, way: int, part: int, call: int) -> None:
        self.at[node] = at = _At(run, way, part, call, self.counts[run, way, part, call])
        self.counts[run, way, part, call] += 1
        self.parts.setdefault((run, way, part), {})[at.place] = node

    def _check(self) -> None:
        """The parts around the middle are equal, and one is done before the next begins."""
        for r in range(len(self.short.runs)):
            for way in (FORWARD, BACKWARD):
                near = [self.parts.get((r, way, k), {}) for k in range(self.middle - 1, self.middle + 2)]
                if (way == FORWARD and not near[0]) or len({tuple(part) for part in near}) > 1:
                    raise _Unlike
                for same in zip(*(part.values() for part in near)):
                    if len({kind_of(n) for n in same}) > 1 or len({tuple(self._lies(n)) for n in same}) > 1:
                        raise _Unlike
                orders = [[self.order[n] for n in part.values()] for part in near[::way] if part]
                ends = [(min(places), max(places)) for places in orders]
                if any(a[1] > b[0] for a, b in pairwise(ends)):
                    raise _Unlike

    def _lies(self, node: fx.Node) -> Iterable:
        """Where a node's operands stand, seen from it."""
        here = self.at[node]
        for x in node_operands(node):
            at = self.at.get(x)
            yield x if at is None or at.run != here.run else (at.way, at.part - here.part, at.place)

    def run(self) -> fx.GraphModule:
        """The stretched trace."""
        self._inputs()
        for n in self.nodes:
            at = self.at.get(n)
            if n.op in ("placeholder", "output"):
                continue
            if at is None:
                self._emit(n, 0)
                continue
            middle = list(self.parts[at.run, at.way, self.middle].values()) if at.part == self.middle else [None]
            if at.way == BACKWARD and n is middle[0]:
                self._stamp(middle, reversed(self._missing(at.run)))
            self._emit(n, at.part + self._moved(at))
            if at.way == FORWARD and n is middle[-1]:
                self._stamp(middle, self._missing(at.run))
        self._outputs()
        constants = {n.target: attrgetter(n.target)(self.traced) for n in self.graph.find_nodes(op="get_attr")}
        made = fx.GraphModule(constants, self.graph)
        made.meta.update(self.traced.meta)
        return made

    def _moved(self, at: _At) -> int:
        """How much further on a part of the trace is in the whole."""
        return self.extra(at.run) if at.part > self.middle else 0

    def _missing(self, run: int) -> range:
        return range(self.middle + 1, self.middle + 1 + self.extra(run))

    def _stamp(self, nodes: Sequence[Any], parts: Iterable[int]) -> None:
        for part in parts:
            for n in nodes:
                self._emit(n, part)

    def _known(self, n: fx.Node, part: int) -> fx.Node:
        """What was made of a node of the trace for a part of the whole."""
        if (n, part) not in self.made:
            raise _Unlike
        return self.made[n, part]

    def _emit(self, n: fx.Node, part: int) -> None:
        new = self.graph.node_copy(n, lambda x: self._resolved(x, n, part))
        self.made[n, part] = new
        self._relabel(new, n, part)
        new.meta[LIKE] = n.name
        new.meta[STORAGES] = tuple(self._storage(t, n, part) for t in tensors_of(n.meta.get("val")))

    def _storage(self, t, n: fx.Node, part: int) -> tuple[str, int]:
        owner, i = self.owners[storage_id(t)]
        return (self.made[n, part] if owner is n else self._resolved(owner, n, part)).name, i

    def _relabel(self, new: fx.Node, n: fx.Node, part: int) -> None:
        """What a node is told of by: the modules and lines of the call in the whole that it comes of."""
        tag = (n.meta.get("custom") or {}).get(PART)
        if tag is None:
            return
        run, own, call = tag
        if n not in self.at:
            part = own + (self.extra(run) if own > self.middle else 0)
        source = self.short.runs[run].parts[part][call].meta
        for key, of in (("nn_module_stack",) * 2, ("fwd_nn_module_stack", "nn_module_stack"), ("stack_trace",) * 2):
            if key in new.meta and of in source:
                new.meta[key] = source[of]
        new.meta["custom"] = dict(source.get("custom") or {})

    def _resolved(self, x: fx.Node, n: fx.Node, part: int) -> fx.Node:
        """What `n`, written for a part of the whole, reads where the trace reads `x`."""
        at, here = self.at.get(x), self.at.get(n)
        if at is None:
            return self._known(x, 0)
        if here is not None and here.run == at.run:
            return self._of_part(at, part + at.part - here.part)
        late = self._after_all(n, at.run)
        if late != (at.part > self.middle):
            raise _Unlike
        return self._of_part(at, at.part + self._moved(at))

    def _of_part(self, at: _At, part: int) -> fx.Node:
        """What stands for a part of the whole where `at` is."""
        extra = self.extra(at.run)
        own = part if part <= self.middle else self.middle if part <= self.middle + extra else part - extra
        known = self.parts.get((at.run, at.way, own), {})
        if at.place not in known:
            raise _Unlike
        return self._known(known[at.place], part)

    def _turn(self, run: int) -> tuple[int, int]:
        """The places of the last call for the middle part, and of the first of its backward."""
        forward, backward = (self.parts.get((run, way, self.middle), {}).values() for way in (FORWARD, BACKWARD))
        return max(self.order[x] for x in forward), min((self.order[x] for x in backward), default=len(self.nodes))

    def _after_all(self, n: fx.Node, run: int) -> bool:
        """Whether a node stands behind a run's middle part and before its backward: it sees the last parts."""
        last, begins = self.turns[run]
        return last < self.order[n] < begins

    def _inputs(self) -> None:
        own = {
            n: (r, k, j)
            for r, run in enumerate(self.short.runs)
            for k, inputs in enumerate(run.inputs)
            for j, n in enumerate(inputs)
        }
        by_whole = dict(zip(self.short.of, self.placeholders))
        self.own_inputs = []
        for place, n in enumerate(self.whole.graph.find_nodes(op="placeholder")):
            r, part, j = own.get(n, (0, 0, 0))
            model = self._model(r, part, j) if n in own else by_whole[place]
            self.own_inputs.append((model, part))
            self._input(model, part, f"primals_{place + 1}")
        for n in self.placeholders[len(self.short.inputs) :]:
            self._input(n, 0, n.name)

    def _model(self, run: int, part: int, place: int) -> fx.Node:
        """The input of the trace that stands for a part's own input of the whole."""
        extra, middle = self.extra(run), self.middle
        own = part if part <= middle else middle if part <= middle + extra else part - extra
        return self.parts[run, 0, own][place, 0]

    def _input(self, model: fx.Node, part: int, name: str) -> None:
        new = self.graph.create_node("placeholder", name, (), {}, name=name)
        new.meta = dict(model.meta)
        new.meta[STORAGES] = tuple((new.name, i) for i, _ in enumerate(tensors_of(model.meta.get("val"))))
        self.made[model, part] = new

    def _outputs(self) -> None:
        end = self.traced.graph.output_node()
        values: Any = end.args[0]
        returned = len(values) - len(self.short.inputs)
        made: list[Any] = [self._given(x) for x in values[:returned]]
        gradients = dict(zip(self.placeholders, values[returned:]))
        for model, part in self.own_inputs:
            gradient = gradients[model]
            if model in self.at and isinstance(gradient, fx.Node):
                at = self.at.get(gradient)
                if at is None or at.run != self.at[model].run:
                    raise _Unlike
                made.append(self._of_part(at, part + at.part - self.at[model].part))
            else:
                made.append(self._given(gradient))
        self.graph.output(tuple(made)).meta = dict(end.meta)

    def _given(self, x: Any) -> Any:
        at = self.at.get(x) if isinstance(x, fx.Node) else None
        if not isinstance(x, fx.Node):
            return x
        return self._known(x, 0) if at is None else self._of_part(at, at.part + self._moved(at))
