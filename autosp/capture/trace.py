"""Capture without running: Dynamo traces the model, nothing is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import fx

from .capture import capture
from .captured import Captured


def trace(model: Callable, inputs: Mapping[str, object], *, dynamic: bool = False) -> tuple[Captured, Sequence]:
    """The global-view graph of `model(**inputs)` and the graph's example inputs, in order.

    Raises CaptureError, or Dynamo's own error where the model breaks the graph.
    """
    found: list = []

    def backend(gm: fx.GraphModule, example_inputs):
        captured = capture(gm, example_inputs, dynamic=dynamic)
        found.append((captured, tuple(example_inputs)))
        return lambda *args: tuple(_empty(n) for n in _outputs(captured))

    torch._dynamo.reset()
    with torch.fx.experimental._config.patch(use_duck_shape=False):
        torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)(**inputs)
    torch._dynamo.reset()
    return found[0]


def _outputs(captured: Captured):
    values = captured.graph.graph.output_node().args[0]
    return values if isinstance(values, (tuple, list)) else (values,)


def _empty(node):
    val = node.meta.get("val") if isinstance(node, fx.Node) else node
    if not isinstance(val, torch.Tensor):
        return val
    shape = [int(s) for s in val.shape]
    return torch.empty(shape, dtype=val.dtype, device="meta", requires_grad=val.requires_grad)
