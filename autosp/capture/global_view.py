"""Dynamo's forward graph, re-traced pre-dispatch into global-view ATen operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter

import attrs
import torch
from torch import fx

from ..compat.tested import warn_of_untested
from ..compat.torch import (
    GET_DATA,
    FakeTensor,
    FakeTensorMode,
    HigherOrderOperator,
    carry_placeholder,
    carry_sources,
    data_dependent,
    fake_mode_of_trace,
    fake_of_trace,
    hints_of,
    kept_by_side_effects,
    trace_to_aten,
)
from ..errors import AutospError, CaptureError, InputError, Problem
from ..rules import default_rules
from ..rules.book import WHOLE_REGION
from ..syntax import Layout
from . import messages, own
from .assertions import keep_assertions
from .captured import Captured, GraphOutput, Placeholder, module_path, source_line, tensors_of
from .casts import open_regions
from .effects import lost_effects, sparse_gradients
from .names import Names, name_modules
from .vmaps import batches, has_vmaps, refuse_no_grad, refuse_own_backwards, without_vmaps

LayoutOf = Callable[[str, torch.Tensor], "Layout | None"]


def capture(
    gm: fx.GraphModule,
    example_inputs: Sequence,
    *,
    layout_of: LayoutOf = lambda name, x: None,
    dynamic: bool = False,
    names: Names | None = None,
) -> Captured:
    """The global-view graph of what Dynamo traced, in the operators that PyTorch calls: some write in place, and some
    are left as they are written by a user (the first passes of `autosp.passes` make them what the solver knows).

    Called inside a `torch.compile` backend. Static: symbolic sizes are specialised through
    `int()`, so that Dynamo guards them and another size compiles anew. Dynamic: symbols stay, and
    dims that layouts call by one name are one symbol. names: what `name_modules` found for this graph, if it was called.

    Raises CaptureError where the graph cannot be traced to ATen operators, InputError where dims of one name differ in
    size.
    """
    warn_of_untested()
    default_rules()  # one's own are read as they are now: from here on every stage asks what kind an operator is of
    refuse_own_backwards()
    refuse_no_grad(gm)
    names = names or name_modules(gm, example_inputs)
    layouts = _layouts(gm, example_inputs, names, layout_of)
    _unify(_inputs_of(gm), example_inputs, layouts)
    args, mode = (_dynamic_args if dynamic else _static_args)(gm, example_inputs)
    interpreter = _Interpreter(_plain(gm))
    try:
        with mode:  # pyrefly: ignore[bad-context-manager]  # Dynamo has one here
            graph = trace_to_aten(lambda *a: interpreter.run(*a), args)
            if (_lost(graph) or batches(graph)) and has_vmaps(interpreter.module):
                own.forget()
                interpreter = _Interpreter(without_vmaps(interpreter.module))
                graph = trace_to_aten(lambda *a: interpreter.run(*a), args)
            own.place(graph)
    except AutospError as e:
        raise type(e)([attrs.evolve(p, where=p.where or _place(interpreter.at)) for p in e.problems]) from e
    except Exception as e:  # any failure of tracing is the model's to know
        raise CaptureError(_untraceable(e, interpreter.at)) from e
    finally:
        own.forget()
    placeholders = _placeholders(gm, graph, example_inputs, names)
    keep_assertions(graph)
    faults = [messages.effect_lost(*effect) for effect in lost_effects(interpreter.module, graph)]
    if faults := [*faults, *map(messages.sparse_gradient, sparse_gradients(graph))]:
        raise CaptureError(faults)
    if lost := _lost(graph):
        raise CaptureError(messages.value_lost(lost, _higher_order(gm)))
    by_name = {new.name: layouts[old] for old, new in zip(_inputs_of(gm), _inputs_of(graph)) if old in layouts}
    return Captured(
        graph=graph,
        placeholders=placeholders,
        outputs=_outputs(graph, _kept(gm)),
        layouts=by_name,
        hints=hints_of(mode),
        training=torch.is_grad_enabled(),
        names=names,
        autocast=open_regions(),
        checkpointed=len(_checkpoints(gm)),
    )


def _layouts(gm, example_inputs, names: Names, layout_of: LayoutOf) -> dict[fx.Node, Layout]:
    found = {}
    for node, e, (role, name) in zip(_inputs_of(gm), example_inputs, names.roles):
        if role == "input":
            layout = layout_of(name, e)
            if layout is not None:
                found[node] = layout
    return found


def _unify(nodes, example_inputs, layouts: dict[fx.Node, Layout]) -> None:
    """Dims of one name are one size: the comparison makes Dynamo guard it and drop one symbol."""
    sizes: dict[str, tuple] = {}
    for node, e in zip(nodes, example_inputs):
        if node not in layouts:
            continue
        for d, dim in enumerate(layouts[node].dims):
            name = dim.parts[0].name if len(dim.parts) == 1 else None
            if name is None or name == "...":
                continue
            size = node.meta.get("example_value", e).shape[d]  # with Dynamo's symbol, where it has one
            first, where = sizes.setdefault(name, (size, f"{node.name}, dim {d}"))
            if not first == size:
                raise InputError(_unequal(name, int(first), where, int(size), f"{node.name}, dim {d}"))


def _lost(graph: fx.GraphModule) -> fx.Node | None:
    """A user of a value that the trace holds as a constant though it was computed: nothing would compute it again."""
    for node in graph.graph.find_nodes(op="get_attr"):
        if isinstance(getattr(graph, str(node.target), None), FakeTensor):
            return next(iter(node.users), node)
    return None


def _higher_order(gm: fx.GraphModule) -> list[str]:
    return sorted({str(n.target) for n in gm.graph.nodes if isinstance(n.target, HigherOrderOperator)})


def _unequal(name: str, a: int, where: str, b: int, there: str) -> Problem:
    return Problem(
        what=f"dim '{name}' is {a} in {where} and {b} in {there}",
        rule="a dim name means one size wherever it stands in a spec",
        fix="give inputs of one size, or the dims different names in the spec",
        where=there,
    )


def _static_args(gm, example_inputs):
    """Ints for symbols (guarded by the conversion) and fake tensors of plain sizes."""
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=data_dependent())
    return [_static(e, mode) for e in example_inputs], mode


def specialise(example_inputs: Sequence) -> None:
    """Make Dynamo guard the example's sizes, as where the trace holds numbers: another size compiles anew."""
    for e in example_inputs:
        sizes = (*e.shape, *e.stride()) if isinstance(e, torch.Tensor) else (e,)
        for size in sizes:
            if isinstance(size, torch.SymInt):
                int(size)


def _static(e, mode: FakeTensorMode):
    if isinstance(e, torch.SymInt):
        return int(e)
    if not isinstance(e, torch.Tensor):
        return e
    sizes, strides = [int(n) for n in e.shape], [int(n) for n in e.stride()]
    with mode:
        fake = torch.empty_strided(sizes, strides, dtype=e.dtype, device=e.device)
    return fake.requires_grad_(e.requires_grad)


def _dynamic_args(gm, example_inputs):
    """Fake tensors in Dynamo's own fake mode, with the symbols that Dynamo gave them."""
    pairs = zip(_inputs_of(gm), example_inputs)
    return [fake_of_trace(e, node) if isinstance(e, torch.Tensor) else e for node, e in pairs], fake_mode_of_trace()


_CHECKPOINT = torch.ops.higher_order.tag_activation_checkpoint


def _checkpoints(gm: fx.GraphModule) -> list[fx.Node]:
    return [n for n in gm.graph.nodes if n.target is _CHECKPOINT]


def _plain(gm: fx.GraphModule) -> fx.GraphModule:
    """The graph without gradient checkpointing's wrappers: recomputation is a stage of its own."""
    while _checkpoints(gm):  # one may stand in another
        gm = _unwrapped(gm)
    return gm


def _unwrapped(gm: fx.GraphModule) -> fx.GraphModule:
    """The graph with the bodies of its checkpoints in their place."""
    graph = fx.Graph()
    env: dict[fx.Node, fx.Node] = {}
    for node in gm.graph.nodes:
        if node.target is _CHECKPOINT:
            body = attrgetter(node.args[0].target)(gm)
            values = [env[a] if isinstance(a, fx.Node) else a for a in node.args[1:]]
            known = dict(zip(_inputs_of(body), values))
            env[node] = graph.graph_copy(body.graph, known)
            for inner in body.graph.find_nodes(op="get_attr"):
                known[inner].target = f"{node.args[0].target}.{inner.target}"
        elif node.op == "output":
            graph.output(fx.map_arg(node.args[0], lambda n: env[n]))
        elif node.op != "get_attr" or any(user.target is not _CHECKPOINT for user in node.users):
            env[node] = graph.node_copy(node, lambda n: env[n])
    return fx.GraphModule(gm, graph)


def _inputs_of(gm: fx.GraphModule) -> list[fx.Node]:
    return [n for n in gm.graph.nodes if n.op == "placeholder"]


def _placeholders(gm, graph, example_inputs, names: Names) -> tuple[Placeholder, ...]:
    """What each placeholder is; the metadata that later stages of PyTorch read is carried over."""
    found = []
    for old, new, e, (role, name) in zip(_inputs_of(gm), _inputs_of(graph), example_inputs, names.roles):
        carry_placeholder(old, new)
        grad = isinstance(e, torch.Tensor) and e.requires_grad
        found.append(Placeholder(new.name, role, name, grad))
    graph.meta.update(gm.meta)
    carry_sources(gm, graph)
    return tuple(found)


def _kept(gm: fx.GraphModule) -> set[int]:
    """The positions of outputs that Dynamo assigns to attributes, or puts into containers, of the user's."""
    names = kept_by_side_effects()
    values = gm.graph.output_node().args[0]
    return {i for i, n in enumerate(values) if isinstance(n, fx.Node) and n.name in names}


def _outputs(graph: fx.GraphModule, kept: set[int]) -> tuple[GraphOutput, ...]:
    """Outputs by name. Dynamo keeps none, so they are known by shape: `loss` is the first
    differentiable scalar, `logits` the first other floating-point value."""
    named: set[str] = set()
    found = []
    for i, node in enumerate(graph.graph.output_node().args[0]):
        name = None
        if isinstance(node, fx.Node) and i not in kept:
            val = (tensors_of(node.meta.get("val")) or [None])[0]
            if val is not None and val.is_floating_point():
                name = "loss" if val.dim() == 0 else "logits"
                name = None if name in named else name
                named.add(name)
        found.append(GraphOutput(i, name, i in kept))
    return tuple(found)


class _Interpreter(fx.Interpreter):
    """Knows which node it is at, so that a failure can name the user's line."""

    at: fx.Node | None = None

    def run_node(self, n: fx.Node):
        self.at = n
        return super().run_node(n)

    def call_function(self, target, args, kwargs):
        if target is GET_DATA:  # whose result the trace does not know to be the same memory
            return args[0].detach()
        if own.is_own(target):
            return own.mark(args, kwargs, {user.args[1] for user in self.at.users})
        return super().call_function(target, args, kwargs)


_VALUE_FIXES = {
    "DataDependentOutputException": "keep the value a tensor: no .item(), float() or int() of it in the forward",
    "DynamicOutputShapeException": "keep sizes independent of values: torch.where or a mask instead of indexing by one",
}


def _untraceable(e: Exception, at: fx.Node | None) -> Problem:
    kind, first = type(e).__name__, (str(e).strip().splitlines() or [""])[0]
    return Problem(
        what=f"the model's graph cannot be traced to ATen operators: {kind}: {first}",
        rule="autosp works on one full graph of ATen operators, whose sizes follow from the inputs' sizes",
        fix=WHOLE_REGION
        if at is not None and str(at.target) == "invoke_subgraph"
        else _VALUE_FIXES.get(
            kind,
            "run the model under torch.compile(fullgraph=True, backend='aot_eager') first; what fails there fails here",
        ),
        where=_place(at),
    )


def _place(at: fx.Node | None) -> str:
    place, module = ("", "") if at is None else (source_line(at), module_path(at))
    return (f"{place} (module {module})" if place and module else place or module) or "capture"
