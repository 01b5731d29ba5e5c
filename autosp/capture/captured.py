"""The value that capture gives: a global-view, pre-dispatch ATen graph and what its ends mean."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import torch
from torch import fx

from ..syntax import Layout
from .names import Names, Role


@attrs.frozen
class Placeholder:
    """One graph input. `name` is the forward's argument for an input, the module path for a
    parameter or buffer, the source text otherwise."""

    node: str
    role: Role
    name: str
    requires_grad: bool


@attrs.frozen
class GraphOutput:
    """One graph output: the position in the output tuple, and its name in a spec (`loss`, `logits`), or None where the
    spec language has no name for it.

    kept: it outlives the call, in an attribute or a container of the model. buffer: the placeholder of the
    buffer that it is written to when all else is computed; such an output is not returned."""

    position: int
    name: str | None = None
    kept: bool = False
    buffer: str | None = None


@attrs.frozen(eq=False)
class Captured:
    """A model's forward as the user wrote it, on whole tensors.

    graph: `fx.GraphModule` of pre-dispatch ATen operators; `meta["val"]` holds fake tensors whose
      sizes are ints (static) or SymInts (dynamic).
    layouts: what the spec or an annotation says of an input, by placeholder.
    hints: the size that each symbol had in the example (empty when static).
    training: gradients flow (grad mode was on when the graph begins).
    names: what the model calls its parts.
    autocast: the regions that were open when it begins (see `casts`); those that it enters are calls in it.
    checkpointed: calls under the model's own gradient checkpointing, of which the graph keeps nothing.
    """

    graph: fx.GraphModule
    placeholders: tuple[Placeholder, ...]
    outputs: tuple[GraphOutput, ...]
    layouts: Mapping[str, Layout]
    hints: dict
    training: bool
    names: Names
    autocast: tuple[tuple, ...] = ()
    checkpointed: int = 0

    def node_of(self, output: GraphOutput) -> fx.Node | None:
        """What gives an output; None where it is None or a number."""
        value = self.graph.graph.output_node().args[0][output.position]
        return value if isinstance(value, fx.Node) else None

    def source(self, node: fx.Node) -> str:
        return source_line(node)

    def module(self, node: fx.Node) -> str:
        return module_path(node)


def module_path(node: fx.Node) -> str:
    """The path of the innermost module the node was traced in: `model.layers.0.self_attn`."""
    return next((path for path in reversed(paths_of(node)) if path), "")


def paths_of(node: fx.Node, stack: str = "nn_module_stack") -> list[str]:
    """The paths of all modules that a node was traced in, outermost first."""
    return [path for _, path in module_calls_of(node, stack)]


def module_calls_of(node: fx.Node, stack: str = "nn_module_stack") -> list[tuple[str, str]]:
    """The calls of modules that a node was traced in, outermost first: what tells a module's calls
    apart, and its path (see `names`)."""
    return [(key, path) for key, (path, _) in (node.meta.get(stack) or {}).items()]


def place_in(graph: str, node: fx.Node) -> str:
    """Where a node stands, for an error: `local graph, NAME (file.py:12 in forward: code)`."""
    line = source_line(node)
    return f"{graph} graph, {node.name}" + (f" ({line})" if line else "")


def source_line(node: fx.Node) -> str:
    """`file.py:12 in forward: code` of the user's line that made the node, or ''."""
    trace = (node.meta.get("stack_trace") or "").strip().splitlines()
    for i in range(len(trace) - 1, -1, -1):
        line = trace[i].strip()
        if line.startswith('File "'):
            path, rest = line[6:].split('"', 1)
            where = rest.replace(", line ", ":", 1).replace(", in ", " in ", 1)
            code = trace[i + 1].strip() if i + 1 < len(trace) else ""
            return f"{path.rsplit('/', 1)[-1]}{where}: {code}"
    return ""


def differentiable(dtype: torch.dtype) -> bool:
    """Whether a tensor of the dtype can have a gradient, as autograd decides it."""
    return dtype.is_floating_point or dtype.is_complex


def tensors_of(value) -> list[torch.Tensor]:
    """The tensors of a node's `val`, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [t for v in value for t in tensors_of(v)]
    return []


def tensor_nodes(node: fx.Node) -> list[fx.Node]:
    """The nodes that give a call's tensor operands, in order, as often as they occur."""
    found: list[fx.Node] = []
    fx.map_arg((node.args, node.kwargs), lambda n: found.append(n) if tensors_of(n.meta.get("val")) else None)
    return found
