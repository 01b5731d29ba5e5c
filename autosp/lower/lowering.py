"""Global view to local view: what one rank runs.

The plan knows no rank; here it is specialised. Each operator becomes its local version, each change of a placement on
an axis a `convert` node, and what every value is (its sharding, and whether a gradient flows) is written into
`node.meta["autosp"]` for readers: the checker infers it anew.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from operator import attrgetter

import sympy
import torch
from torch import fx

from ..capture import GraphOutput, tensors_of
from ..capture.masks import drops_mask, window_of, without_mask
from ..capture.regions import KEY
from ..compat.torch import carry_placeholder, carry_sources, tree_map
from ..errors import PlanError
from ..rules import is_a, localise
from ..rules.strategies import narrowed
from ..sharding import INVARIANT, PARTIAL, REPLICATE, Placement, Sharding, Split, as_size
from ..sharding.sharding import Hop
from ..solve import Change, Plan
from ..solve.problem import Op, Value, of_data
from ..solve.strategies import is_random
from .conversions import convert, mean_over, scale_gradient
from .held import HELD
from .own import local_own, not_linear
from .rank import Note, Rank
from .regions import Regions
from .sizes import Sizes
from .windows import BAND, Band

aten = torch.ops.aten
_CARRIED = ("nn_module_stack", "stack_trace", "source_fn_stack", "recompute", "ac_graph_id")


def lower(plan: Plan, rank: Rank) -> fx.GraphModule:
    """The local graph of one rank, with the signature of the captured graph.

    An output whose mode is `none` is None.
    """
    return _Lowering(plan, rank).run()


class _Lowering:
    def __init__(self, plan: Plan, rank: Rank):
        self.plan, self.rank = plan, rank
        self.problem = plan.problem
        self.graph = fx.Graph()
        self.where = rank.on(plan.mesh)
        self.replicated = Sharding.alike(plan.mesh, REPLICATE)
        self.env: dict[tuple[int, Sharding], fx.Node] = {}
        self.maker: dict[int, Op] = {v.id: op for op in self.problem.ops for v in op.results}
        self.group_of: dict[Change, tuple[Change, ...]] = {c: g for g in plan.groups for c in g}
        self.done: set[Op] = set()
        self.meta: dict = {}
        self.numbers: dict[fx.Node, fx.Node] = {}
        self.functions: dict[str, fx.GraphModule] = {}
        self.regions = Regions(self.graph, self.problem.captured.graph.graph)

    def run(self) -> fx.GraphModule:
        source = self.problem.captured.graph
        self._placeholders(source)
        for op in self.problem.ops:
            self._op(op)
        self._output()
        self.graph.eliminate_dead_code()
        kept = {n.target: attrgetter(n.target)(source) for n in self.graph.nodes
                if n.op == "get_attr" and n.target not in self.functions}  # fmt: skip
        gm = fx.GraphModule({**kept, **self.functions}, self.graph)
        gm.meta.update(source.meta)
        carry_sources(source, gm, constants=(name for name, _ in gm.named_buffers()))  # that capture lifted
        gm.graph.lint()
        return gm

    def _placeholders(self, source: fx.GraphModule) -> None:
        symbols: dict[sympy.Symbol, fx.Node] = {}
        params = {p.node for p in self.problem.captured.placeholders if p.role == "param"}
        written = {o.buffer for o in self.problem.captured.outputs}
        pending = []
        for node in source.graph.nodes:
            if node.op != "placeholder":
                continue
            new = self.graph.node_copy(node)
            carry_placeholder(node, new)
            val = node.meta.get("val")
            if isinstance(val, torch.SymInt):
                symbols.setdefault(as_size(val), new)
            elif isinstance(val, torch.SymFloat):
                self.numbers[node] = new
            for v in self.problem.of.get(node, ()):
                pending.append((v, new, node.name in params))
        for v, new, _ in pending:  # sizes that only a tensor's shape tells
            for d, s in enumerate(v.shape):
                if isinstance(s, sympy.Symbol) and s not in symbols:
                    symbols[s] = self.graph.call_function(aten.sym_size.int, (new, d))
        self.sizes = Sizes(self.graph, symbols)
        for v, new, param in pending:
            self._note(new, v, self.plan.shardings[v.id])
            if self.problem.captured.training and new.name in written:
                new = self.graph.call_function(HELD, (new,))
                self._note(new, v, self.plan.shardings[v.id])
            self.env[v.id, self.plan.shardings[v.id]] = self._enter(v, new, param)

    def _enter(self, v: Value, node: fx.Node, param: bool) -> fx.Node:
        """Parameters: their gradient is completed here, or left partial for the engine. Other
        inputs: their gradient must not carry the scale that the engine takes out of parameters."""
        if not v.diff:
            return node
        if param and self.rank.complete:
            whole = Sharding(tuple((here.axis, INVARIANT if here.size > 1 else REPLICATE) for here in self.where))
            self._note(node, v, whole)
            return self._brought(node, v, whole, self.plan.shardings[v.id])
        if not param and self.rank.grad_scale != 1.0:
            out = self.graph.call_function(scale_gradient, (node, 1.0 / self.rank.grad_scale))
            self._note(out, v, self.plan.shardings[v.id])
            return out
        return node

    def _value(self, v: Value, at: Sharding) -> fx.Node:
        """The node of a value in a sharding; emits what it needs first."""
        if (v.id, at) in self.env:
            return self.env[v.id, at]
        own = self.plan.shardings[v.id]
        if (v.id, own) not in self.env:
            if v.node.op == "get_attr":
                self.env[v.id, own] = node = self.graph.node_copy(v.node)
                self._note(node, v, own)
            else:
                self._op(self.maker[v.id])
        if own != at:
            self._change(self.group_of[Change(v.id, own, at)])
        return self.env[v.id, at]

    def _change(self, group: tuple[Change, ...]) -> None:
        """Changes that travel together: of one axis, or of one value over several."""
        values = [self.problem.values[c.value] for c in group]
        self.meta = self._carried(values[-1].node)
        nodes = tuple(self._value(v, c.src) for v, c in zip(values, group))
        if len(group) == 1:
            (v,), (c,) = values, group
            self.env[v.id, c.dst] = self._brought(nodes[0], v, c.src, c.dst)
            return
        hops = [c.src.hops(c.dst)[0] for c in group]
        out = self._convert(nodes, values, hops)
        for i, (v, c) in enumerate(zip(values, group)):
            self.env[v.id, c.dst] = self._item(out, i, v, c.dst)

    def _brought(self, node: fx.Node, v: Value, src: Sharding, dst: Sharding) -> fx.Node:
        """One value, axis by axis."""
        at = src
        for axis, before, after in src.hops(dst):
            at = at.replaced(axis, after)
            node = self._item(self._convert((node,), (v,), [(axis, before, after)]), 0, v, at)
        return node

    def _convert(self, nodes, values, hops: Sequence[Hop]) -> fx.Node:
        """One message on one axis."""
        (axis,) = {axis for axis, _, _ in hops}
        here = next(here for here in self.where if here.axis == axis)
        srcs, dsts = (tuple(map(self._placed, places)) for places in zip(*((src, dst) for _, src, dst in hops)))
        node = self.graph.call_function(convert, (tuple(nodes), srcs, dsts, here, bool(values[0].diff)))
        node.meta.update(self.meta)
        return node

    def _placed(self, at: Placement) -> Placement:
        """A placement as an argument: its sizes as nodes."""
        return Split(at.dim, *map(self.sizes, at[1:])) if isinstance(at, Split) else at

    def _item(self, node: fx.Node, i: int, v: Value, at: Sharding) -> fx.Node:
        item = self.graph.call_function(operator.getitem, (node, i))
        item.meta.update(self.meta)
        self._note(item, v, at)
        return item

    def _op(self, op: Op) -> None:
        if op in self.done:
            return
        self.done.add(op)
        s = self.plan.chosen[op]
        operands = {}
        for v, need in zip(op.operands, s.needs):
            operands.setdefault(v.node if v.index is None else (v.node, v.index), []).append(self._value(v, need))
        self.meta = self._carried(op.node)
        self.regions.at(op.node)
        args, kwargs = self._arguments(op, operands)
        if drops_mask(op.node, s.needs[0] if s.needs else None):
            args, kwargs = without_mask(op.node.target, args, kwargs)
        if op.node.target is torch.ops.autosp.constrain.default:
            out = self._emit(aten.alias.default, args[:1], {})
        elif KEY in op.node.meta:
            out = self._emit(op.node.target, self._shard_sizes(op, s, args), {})
        elif op.own is not None:
            out = self._own(op, s, args)
        elif op.node.target is torch.ops.autosp.mean_over.default and args[1] in self.rank.others:
            out = self._emit(mean_over, (args[0], *self.rank.others[args[1]]), {})
        elif op.projection is None:
            out = self._emit(op.node.target, args, kwargs)
        else:
            shapes = tuple(v.shape for v in op.results)
            out = localise(
                op.node.target, args, kwargs, op.projection, s.needs, s.gives, shapes,
                self.where, self._emit, self.sizes,
            )  # fmt: skip
        if is_a(out, "masked") and (window := window_of(op.node, s.needs[0])) is not None:
            out.meta[BAND] = Band(window, op.operands[0].shape[-2], op.node.meta["val"].device)
        self._results(op, s, out)

    def _own(self, op: Op, s, args) -> fx.Node:
        """An autograd.Function, with both its bodies on local sizes."""
        if not op.own.linear and self._weighed():
            raise PlanError(not_linear(op))
        local = local_own(op, s.needs, s.gives, self.where)
        tensors = [a for a, n in zip(args, op.node.args) if isinstance(n, fx.Node) and tensors_of(n.meta.get("val"))]
        if not op.own.linear:
            tensors = [
                self._scaled(a, v, need, self.rank.grad_scale) for a, v, need in zip(tensors, op.operands, s.needs)
            ]
        sizes = [self.sizes(symbol) for symbol in local.symbols]
        return self._emit(local.called(op.node.target.__name__), (*tensors, *sizes), {})

    def _weighed(self) -> bool:
        """Whether the loss is one token mean over data-parallel ranks: gradients inside are not then those
        of each rank's own loss, nor of the whole batch's."""
        graph = self.problem.captured.graph.graph
        marks = graph.find_nodes(op="call_function", target=torch.ops.autosp.mean_over.default)
        return any(self.rank.others.get(n.args[1], ("", 1))[1] > 1 for n in marks)

    def _scaled(self, node: fx.Node, v: Value, at: Sharding, factor: float) -> fx.Node:
        """The value, its gradient multiplied: a backward that is not linear must see the gradient of
        the loss itself, not what the engine divides later."""
        if not v.diff or self.rank.grad_scale == 1.0:
            return node
        out = self._emit(scale_gradient, (node, factor), {})
        self._note(out, v, at)
        return out

    def _arguments(self, op: Op, operands):
        """The call's arguments on local values; sizes become expressions of the inputs."""
        stopped = op.node.meta.get("val") is not None and not op.diff

        def local(n: fx.Node):
            if n.op == "get_attr" and "val" not in n.meta:
                return getattr(self.problem.captured.graph, n.target)  # a function that the operator takes
            values = tensors_of(n.meta.get("val"))
            if not values:
                return self._number(n)
            v = self.problem.of[n][0]
            node = operands[v.node if v.index is None else (v.node, v.index)].pop(0)
            if stopped and v.diff:
                return self._emit(aten.detach.default, (node,), {})
            return node

        return fx.map_arg(op.node.args, local), fx.map_arg(op.node.kwargs, local)

    def _shard_sizes(self, op: Op, s, args):
        """A mapped module runs as it stands: its sizes are those of the shard."""
        projection, over = op.projection, None
        for here in self.where:
            part = s.parts[here.axis]
            if part is not None:
                over, projection = part[0], narrowed(projection, part, here.size, here.rank)
        if over is None:
            return args
        numbers = op.node.meta[KEY].on_shard(projection.sizes[over])
        return tuple(arg if n is None else self.sizes(n) for n, arg in zip(numbers, args, strict=True))

    def _number(self, n: fx.Node):
        """A size as an expression of the inputs; any other number by the call that gives it."""
        val = n.meta["val"]
        if n in self.numbers:
            return self.numbers[n]
        if isinstance(val, torch.SymInt) and not self._from_data(n):
            return self.sizes(val)
        if not isinstance(val, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return val
        if n not in self.numbers:
            if n.op == "placeholder":
                raise AssertionError(f"no number for {n}")

            def known(m: fx.Node):
                whole = self.problem.of.get(m)
                return self._value(whole[0], self.replicated) if whole else self._number(m)

            self.numbers[n] = self.graph.call_function(n.target, fx.map_arg(n.args, known), fx.map_arg(n.kwargs, known))
        return self.numbers[n]

    def _from_data(self, n: fx.Node) -> bool:
        """Whether a number comes of one that is read from a tensor. (What is asserted of it is in its expression
        already: that cannot be asserted of the expression.)"""
        return n in self.numbers or any(self._from_data(m) for m in n.all_input_nodes if m not in self.problem.of)

    def _emit(self, target, args, kwargs) -> fx.Node:
        args = tree_map(lambda x: self._function(x) if isinstance(x, fx.GraphModule) else x, tuple(args))
        node = self.graph.call_function(target, args, dict(kwargs))
        node.meta.update(self.meta)
        return node

    def _function(self, function: fx.GraphModule) -> fx.Node:
        """A function that an operator takes, as an attribute of the local graph."""
        name = f"function_{len(self.functions)}"
        self.functions[name] = function
        return self.graph.create_node("get_attr", name)

    def _results(self, op: Op, s, out: fx.Node) -> None:
        out.meta["autosp_op"] = op
        if not op.results and op.node.meta.get("val") is not None:
            self.numbers[op.node] = out
            self.sizes.know(op.node.meta["val"], out)
        agree = [here.axis for here in self.where if is_random(op) and s.parts[here.axis] is None and here.size > 1]
        for i, (v, at) in enumerate(zip(op.results, s.gives)):
            if v.index is None:
                node = out
                self._note(node, v, at)
            else:
                node = self._item(out, i, v, at)
            if op.own is not None and not op.own.linear:
                node = self._scaled(node, v, at, 1.0 / self.rank.grad_scale)
            self.env[v.id, at] = self._first_ranks(node, v, at, agree)
            for d in (d for d, size in enumerate(v.shape) if of_data(size)):
                self.sizes.measure(v.shape[d], node, d)

    def _first_ranks(self, node: fx.Node, v: Value, at: Sharding, axes: Sequence[str]) -> fx.Node:
        """A whole random value is the first rank's draw, on all of an axis."""
        for axis in axes:
            summand = at.replaced(axis, PARTIAL)
            node = self._brought(self._brought(node, v, at, summand), v, summand, at)
        return node

    def _note(self, node: fx.Node, v: Value, at: Sharding) -> None:
        node.meta["autosp"] = Note(v.id, at, v.diff)

    def _carried(self, node: fx.Node) -> dict:
        return {k: node.meta[k] for k in _CARRIED if k in node.meta}

    def _output(self) -> None:
        self.regions.leave()
        outputs, written = [], {}
        for output, at in zip(self.problem.captured.outputs, self.plan.outputs, strict=True):
            if at is None:
                outputs.append(self._scalar_output(output))
                continue
            v = self.problem.output_value(output)
            node = self._value(v, at)
            if v.diff and self.rank.grad_scale != 1.0:
                node = self.graph.call_function(scale_gradient, (node, self.rank.grad_scale))
                self._note(node, v, at)
            if output.buffer is not None:
                written[node] = self._write(output.buffer, node)
            else:
                outputs.append(node)
        self.graph.output(tuple(written.get(node, node) for node in outputs))

    def _write(self, buffer: str, node: fx.Node) -> fx.Node:
        """A buffer keeps its new value, which all ranks have alike, when all else is computed. (`self.steps += 1`
        assigns it to itself: then it is an output, too.)"""
        placeholder = next(n for n in self.graph.nodes if n.op == "placeholder" and n.name == buffer)
        return self.graph.call_function(aten.copy_.default, (placeholder, node))

    def _scalar_output(self, output: GraphOutput):
        """A number is passed on; a tensor whose mode is `none` is not produced."""
        node = self.problem.captured.node_of(output)
        val = None if node is None else node.meta.get("val")
        return self.sizes(val) if isinstance(val, (torch.SymInt, int)) else None
