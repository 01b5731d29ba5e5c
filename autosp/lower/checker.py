"""A checker that verifies a finished local graph by itself.

Inferred here, and compared with what the lowering did:
- which values have a gradient, and which operands of a call it flows to. PyTorch's autograd runs on fake tensors
  (`autograd`), for the global graph and for the local one, starting from the placeholders that it sees require a
  gradient. Per call the same gradients must flow in both; a conversion must have a backward where a gradient flows;
  and whatever an output depends on in the program must get a gradient from it on the rank.
- the placement of every value on every axis, by the operators' rules and the table of transitions, each of which has a
  known backward (the type system of meta-pytorch/spmd_types: each kind has its gradient's kind).
- the call that each operator becomes, by its rule's local version; the shape and dtype of every value.
A graph that checks has right gradients, if what is taken on trust is right:
- the global graph, the rules with their local versions (`autosp rules verify` proves them by numbers), and the table
  with its steps (tested against its definition);
- `node.meta["autosp_op"]`, the operator that a call stands for: its operands, their order and its call are inferred;
- `plan.chosen[op].parts`, only where a split factor is in results alone: no operand could tell which;
- which mask is only causal, as capture found; the caller's rank, group and scale of gradients;
- that sizes which are equal in the example's numbers are equal; and of a call that fails on fake tensors with
  gradients on (some higher-order operators), that its gradients flow to all its operands.
Nothing is run before it checks.
"""

from __future__ import annotations

import operator
from operator import attrgetter

import torch
from torch import fx

from ..capture import place_in
from ..capture.masks import drops_mask
from ..capture.own import own_of
from ..errors import AutospError, CheckError, Problem
from ..sharding import INVARIANT, REPLICATE, TRANSITIONS, Coordinate, Placement, Sharding, Split, as_size, row_key
from ..sharding.sharding import local_shape
from ..solve import Plan
from ..solve.problem import Op, Value
from .autograd import Flow, Meta, autograd_of_ranks, flow_of
from .conversions import convert, scale_gradient
from .held import HELD
from .match import by_operand, expressions, fits, version
from .own_check import own_faults
from .shapes import in_numbers
from .typed import Typed, coordinates_of, infer, kind_of, typed_inputs

aten = torch.ops.aten


def check(plan: Plan, gm: fx.GraphModule, *, complete: bool = True, grad_scale: float = 1.0) -> dict[fx.Node, Typed]:
    """Verify one rank's local graph against the plan's global graph; gives the inferred types.

    complete: parameters enter as invariant values whose gradients the graph itself completes. grad_scale: what the
    gradient of every output is multiplied by, and that of inputs that are no parameters divided by.
    Raises CheckError with every fault found.
    """
    return _Checker(plan, gm, complete, grad_scale).run()


class _Checker:
    def __init__(self, plan: Plan, gm: fx.GraphModule, complete: bool, grad_scale: float):
        self.plan, self.gm, self.complete, self.grad_scale = plan, gm, complete, grad_scale
        self.problem = plan.problem
        self.types: dict[fx.Node, Typed | tuple[Typed, ...]] = {}
        self.faults: list[Problem] = []
        autograd = autograd_of_ranks()
        self.whole = flow_of(self.problem, autograd)
        self.local = Flow(autograd, gm.graph, self.problem.captured)
        self.sources = {n.name: n for n in self.problem.captured.graph.graph.nodes if n.op == "placeholder"}
        self.where = coordinates_of(plan.mesh, gm)
        self.roles = {p.node: p.role for p in self.problem.captured.placeholders}

    def run(self) -> dict[fx.Node, Typed]:
        for node in self.gm.graph.nodes:
            if not self._evaluated(node):
                break
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "get_attr":
                self._constant(node)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._outputs(node)
        self._read_after_writing()
        if self.faults:
            raise CheckError(self.faults[:10])
        return {n: t for n, t in self.types.items() if isinstance(t, Typed)}

    def _evaluated(self, node: fx.Node) -> bool:
        """What autograd makes of a node; False where its call fails on this rank's shapes."""
        if node.op == "placeholder":
            source = self.sources[node.name]
            self.local.leaf(node, self.whole.env[source], self.whole.roots[source][0])
        elif node.op == "get_attr":
            self.local.constant(node, attrgetter(node.target)(self.gm))
        elif node.op == "call_function":
            try:
                self.local.call(node)
            except AutospError:  # a mapped module that does not run on a shard: its user's error
                raise
            except Exception as error:
                name = node.target if own_of(node) is None else "an autograd.Function"
                what = f"{name} does not run on this rank's shapes: {type(error).__name__}: {error}"
                self._fault(node, what.splitlines()[0], "a local call runs on the shapes of its placements")
                return False
        return True

    def _placeholder(self, node: fx.Node) -> None:
        if self.sources[node.name] in self.problem.of:
            v = self.problem.of[self.sources[node.name]][0]
            at = Sharding(tuple((here.axis, self._entering(node, here)) for here in self.where))
            self.types[node] = self._typed(node, v, at)

    def _entering(self, node: fx.Node, here: Coordinate) -> Placement:
        """What a placeholder is on an axis, where a gradient flows to it."""
        parts = self.roles[node.name] == "param" and not (self.complete and here.size > 1)
        return REPLICATE if parts else INVARIANT

    def _constant(self, node: fx.Node) -> None:
        for source, values in self.problem.of.items():
            if source.op == "get_attr" and source.target == node.target:
                self.types[node] = self._typed(node, values[0], Sharding.alike(self.plan.mesh, REPLICATE))

    def _typed(self, node: fx.Node, v: Value, at: Sharding, meta: Meta | None = None) -> Typed:
        """The type of a value in a sharding, once its local shape and dtype are compared with them. meta: of one of
        several tensors that the node gives."""
        meta = meta or self.local.env[node]
        self._shape(node, v, at, meta)
        return Typed(v.id, kind_of(at, meta.grad), meta.grad)

    def _shape(self, node: fx.Node, v: Value, at: Sharding, meta: Meta) -> None:
        expected = local_shape(v.hint, in_numbers(at, self.problem.hints), self.where)
        if len(meta.shape) != len(expected) or any(a != b for a, b in zip(meta.shape, expected) if isinstance(a, int)):
            self._fault(
                node,
                f"{v.name} has local shape {list(meta.shape)}; {at!r} of {list(v.hint)} is {list(expected)}",
                "a local value has the shape of its placement",
            )
        whole = self._whole(v)
        if meta.dtype != whole.dtype:
            self._fault(
                node,
                f"{v.name} is {meta.dtype}; in the program it is {whole.dtype}",
                "a local value has the program's dtype",
            )

    def _whole(self, v: Value) -> Meta:
        """A value as it is in the global graph."""
        value = self.whole.env[v.node]
        return value if isinstance(value, Meta) else [x for x in value if isinstance(x, Meta)][v.index]

    def _call(self, node: fx.Node) -> None:
        if node.target is convert:
            self._convert(node)
        elif node.target is scale_gradient:
            self._scale(node)
        elif node.target is operator.getitem and isinstance(self.types.get(node.args[0]), tuple):
            self.types[node] = self.types[node.args[0]][node.args[1]]
        elif node.target is aten.copy_.default and node.args[1] in self.types:  # into a buffer
            self.types[node] = self.types[node.args[1]]
        elif node.target is HELD and node.args[0] in self.types:
            self.types[node] = self.types[node.args[0]]
        elif isinstance(node.meta.get("autosp_op"), Op):
            self._operator(node, node.meta["autosp_op"])

    def _scale(self, node: fx.Node) -> None:
        """Gradients of outputs are scaled up, and back where they leave the graph for inputs that are no parameters, or
        enter a backward that is not linear; those that come out of it are scaled up again."""
        source, factor = node.args
        self.types[node] = self.types[source]
        entering = (source.op == "placeholder" and self.roles.get(source.name) != "param") or _is_own(source)
        leaving = all(user.op == "output" or _is_own(user) for user in node.users)
        if not ((entering and factor == 1.0 / self.grad_scale) or (leaving and factor == self.grad_scale)):
            self._fault(
                node,
                f"the gradient of {source} is multiplied by {factor}",
                f"gradients of outputs are multiplied by {self.grad_scale}, and nothing else scales one",
            )

    def _convert(self, node: fx.Node) -> None:
        xs, srcs, dsts, here, diff = node.args
        changed = []
        if here not in self.where:
            what = f"a change over axis '{here.axis}' of {here.size} ranks, by rank {here.rank} of group '{here.group}'"
            self._fault(node, what, f"a graph is of one rank: {', '.join(map(str, self.where))}")
            return
        rows = {row_key(src, dst) for src, dst in zip(srcs, dsts)}
        if len(rows) > 1 or not rows <= set(TRANSITIONS):
            named = " and ".join(" to ".join(row) for row in sorted(rows))
            self._fault(node, f"no conversion {named}", "a change of placement is one of the table's")
            return
        for i, (x, src, dst) in enumerate(zip(xs, srcs, dsts, strict=True)):
            t = self.types.get(x)
            if not isinstance(t, Typed):
                self._fault(node, f"{x} has no placement", "a change starts from a value that has one")
                return
            v = self.problem.values[t.value]
            before = t.sharding.replaced(here.axis, self._placed(src))
            after = t.sharding.replaced(here.axis, self._placed(dst))
            if kind_of(before, t.diff) != t.sharding:
                self._fault(
                    node,
                    f"{v.name} is {t.sharding!r}, and is changed from {before!r}",
                    "a change starts from what the value is",
                )
            for s in (before, after):
                if not s.fits(v.shape, self.plan.mesh):
                    what = f"{s!r} is not a valid split of {v.name} of shape {list(v.shape)}"
                    self._fault(node, what, "a split covers its dim")
                    return
            changed.append(self._typed(node, v, after, self.local.env[node][i]))
            if t.diff and not (diff and changed[-1].diff and (x, 0) in self.local.flows[node][i]):
                self._fault(
                    node,
                    f"{v.name} has a gradient, and is changed as if it had none",
                    "a change has a backward where a gradient flows",
                )
        self.types[node] = tuple(changed)

    def _placed(self, at: Placement) -> Placement:
        """A placement as the plan has it: its sizes as expressions."""
        return Split(at.dim, *map(self._size, at[1:])) if isinstance(at, Split) else at

    def _size(self, x):
        return self.sizes[x] if isinstance(x, fx.Node) else x

    @property
    def sizes(self) -> dict[fx.Node, object]:
        """Size nodes as expressions, evaluated from the graph itself."""
        if not hasattr(self, "_sizes"):
            self._sizes = expressions(self.gm, self.problem)
        return self._sizes

    def _operator(self, node: fx.Node, op: Op) -> None:
        inputs = typed_inputs(node, self.types)
        ids = [t.value for _, t in inputs]
        unread = set()
        if inputs and drops_mask(op.node, inputs[0][1].sharding):
            unread = {op.operands[3].id} - set(ids)  # the call says `is_causal`, as capture found of the mask
        if sorted({*ids, *unread}) != sorted({v.id for v in op.operands}):
            expected = ", ".join(v.name for v in op.operands)
            got = ", ".join(self.problem.values[i].name for i in ids)
            self._fault(
                node,
                f"{op.node.target} is called on {got}; the program calls it on {expected}",
                "a local call takes the same values",
            )
            return
        operands = by_operand([v.id for v in op.operands], [(t.value, t) for _, t in inputs])
        placed = infer(self.plan, op, operands)
        if placed is None:
            have = ", ".join(f"{v.name} {t.sharding!r}" for v, t in zip(op.operands, operands, strict=True) if t)
            self._fault(
                node,
                f"{op.node.target} has no strategy for {have}",
                f"the operator's rule: {op.projection.rule if op.projection else 'none, whole only'}",
            )
            return
        needs = [t.sharding if t else Sharding.alike(self.plan.mesh, REPLICATE) for t in operands]
        if op.own is not None:
            for what, rule in own_faults(op, node, operands, placed, self.plan, self.where):
                self._fault(node, what, rule)
        expected = version(self.problem, op, needs, placed, self.where)
        if not fits(node, expected, self._value_of, self._number):
            self._fault(
                node,
                f"{node.target} is called with other arguments, or in another way, than {op.node.target} is here",
                "a local call is the operator's local version",
            )
        if self.local.casts[node] != self.whole.casts[op.node]:
            self._fault(node, f"{node.target} runs in other autocast regions", "a call runs in the program's regions")
        if not op.results:  # it reads whole values
            self.types[node] = ()
            return
        metas = self.local.env[node]
        metas = [metas] if isinstance(metas, Meta) else [m for m in metas if isinstance(m, Meta)]
        results = tuple(self._typed(node, v, at, m) for v, at, m in zip(op.results, placed, metas, strict=True))
        self._gradients(node, op)
        self.types[node] = results[0] if op.results[0].index is None else results

    def _value_of(self, node: fx.Node) -> int | None:
        t = self.types.get(node)
        return t.value if isinstance(t, Typed) else None

    def _number(self, x) -> int | None:
        """A size in the example's numbers; None for what is none."""
        if isinstance(x, fx.Node):
            number = self.local.env.get(x)
            return number if isinstance(number, int) else None
        return None if isinstance(x, (str, float)) else self.problem.hint(as_size(x))

    def _gradients(self, node: fx.Node, op: Op) -> None:
        """Gradients flow from each result to the same operands as in the program."""
        for r, v in enumerate(op.results):
            expected = {self.problem.of[n][j].id for n, j in self.whole.flows[op.node][r]}
            actual = self._reached(node, r)
            for i in sorted(expected ^ actual):
                here, there = ("no gradient flows", "one does") if i in expected else ("a gradient flows", "none does")
                self._fault(
                    node,
                    f"{here} from {v.name} to {self.problem.values[i].name}; in the program {there}",
                    "gradients flow where PyTorch's autograd has them flow in the program",
                )

    def _reached(self, node: fx.Node, place: int) -> set[int]:
        """The global values that the gradient of what a call gives flows to first."""
        reached, seen, stack = set(), set(), [*self.local.flows[node][place]]
        while stack:
            at = stack.pop()
            if self._value_of(at[0]) is not None:
                reached.add(self._value_of(at[0]))
            elif at not in seen:
                seen.add(at)
                stack += self.local.flows[at[0]][at[1]]
        return reached

    def _written(self) -> dict[str, fx.Node]:
        """What the graph writes, by the placeholder that it writes to."""
        copies = self.gm.graph.find_nodes(op="call_function", target=aten.copy_.default)
        return {n.args[0].name: n.args[1] for n in copies}

    def _read_after_writing(self) -> None:
        """What is computed from a buffer that the graph writes starts from a copy: the backward may compute it again."""
        written = self._written() if self.problem.captured.training else ()
        for node in self.gm.graph.find_nodes(op="placeholder"):
            for user in node.users if node.name in written else ():
                if user.target not in (HELD, aten.copy_.default, aten.sym_size.int):
                    what = f"{user.target} reads {node.name}, which is written before the backward"
                    self._fault(user, what, "a buffer that a forward writes is read through a copy of its value")

    def _outputs(self, node: fx.Node) -> None:
        returned, written = iter(node.args[0]), self._written()
        for output, at in zip(self.problem.captured.outputs, self.plan.outputs, strict=True):
            x = next(returned) if output.buffer is None else written.get(output.buffer)
            t = self.types.get(x)
            if at is None:
                continue
            if not isinstance(t, Typed):
                self._fault(
                    node,
                    f"output {output.name or output.position} has no placement",
                    "an output is a value of the program",
                )
                continue
            v = self.problem.values[t.value]
            if t.sharding != kind_of(at, t.diff):
                self._fault(
                    node,
                    f"output {output.name or output.position} is {t.sharding!r}; it is wanted {at!r}",
                    "an output is given as the spec asks",
                )
            source = self.problem.captured.node_of(output)
            if v not in self.problem.of.get(source, ()):
                self._fault(
                    node,
                    f"output {output.position} is {v.name}; it is wanted to be {source}",
                    "outputs keep their order",
                )
            if t.diff and self.grad_scale != 1.0 and x.target is not scale_gradient:
                what = f"the gradient of output {output.position} is not scaled"
                self._fault(node, what, f"it is multiplied by {self.grad_scale}")
            self._complete(node, source, x)

    def _complete(self, node: fx.Node, whole: fx.Node, x: fx.Node) -> None:
        """Whatever an output depends on in the program gets a gradient from it."""
        expected, actual = self.whole.roots[whole][0], self.local.roots[x][0]
        for source in self.sources.values():
            bit = self.whole.roots[source][0]
            if bit & (expected ^ actual):
                name = next(p.name for p in self.problem.captured.placeholders if p.node == source.name)
                self._fault(
                    node,
                    f"{name} gets {'no' if bit & expected else 'a'} gradient from {whole.name}",
                    "what an output depends on in the program gets a gradient from it, and nothing else does",
                )

    def _fault(self, node: fx.Node, what: str, rule: str) -> None:
        self.faults.append(
            Problem(
                what=what,
                rule=rule,
                fix="this is a fault of autosp or of a rule: run `autosp rules verify` and report it with AUTOSP_DUMP's files",
                where=place_in("local", node),
            )
        )


def _is_own(node: fx.Node) -> bool:
    """Whether a node is a call (or a result of one) of an autograd.Function whose backward is not linear."""
    call = node.args[0] if node.target is operator.getitem else node
    op = call.meta.get("autosp_op")
    return isinstance(op, Op) and op.own is not None and not op.own.linear


__all__ = ["Typed", "check"]
