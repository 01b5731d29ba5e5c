"""Capture without running: Dynamo traces the model, nothing is computed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import fx

from ..compat.torch import BackendCompilerFailed, dynamo_settings, example_size
from ..errors import AutospError
from ..spec import Constraint, Map
from .capture import LayoutOf, capture
from .captured import Captured
from .names import name_modules


def trace(
    model: Callable,
    inputs: Mapping[str, object],
    *,
    layout_of: LayoutOf = lambda name, x: None,
    constraints: Sequence[Constraint] = (),
    maps: Sequence[Map] = (),
    dynamic: bool = False,
) -> tuple[Captured, Sequence]:
    """The global-view graph of `model(**inputs)` and the graph's example inputs, in order.

    Raises what `capture` raises, or Dynamo's own error where the model breaks the graph.
    """
    found: list = []

    def backend(gm: fx.GraphModule, example_inputs):
        names = name_modules(gm, example_inputs, model)
        captured = capture(
            gm, example_inputs, layout_of=layout_of, constraints=constraints, maps=maps, dynamic=dynamic, names=names
        )
        found.append((captured, tuple(example_inputs)))
        return lambda *args: tuple(_empty(n) for n in _outputs(captured))

    torch.compiler.reset()
    with tracing():
        try:
            torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)(**inputs)
        except BackendCompilerFailed as e:
            if isinstance(e.inner_exception, AutospError):
                raise e.inner_exception from e.inner_exception.__cause__
            raise
    torch.compiler.reset()
    return found[0]


def tracing() -> contextlib.AbstractContextManager:
    """How Dynamo is to trace for us: equal sizes keep their own symbols, numbers stay numbers, and
    loggers (GPT-2's `warning_once`) do not break the graph."""
    return dynamo_settings(_loggers())


def _loggers() -> set:
    ignored = {logging.Logger.warning, logging.Logger.info, logging.Logger.debug, logging.Logger.error}
    once = getattr(logging.Logger, "warning_once", None)  # added by transformers where it is imported
    return ignored | ({once} if once else set())


def _outputs(captured: Captured):
    values = captured.graph.graph.output_node().args[0]
    return values if isinstance(values, (tuple, list)) else (values,)


def _empty(node):
    val = node.meta.get("val") if isinstance(node, fx.Node) else node
    if not isinstance(val, torch.Tensor):
        return val
    shape = [example_size(s) for s in val.shape]
    return torch.empty(shape, dtype=val.dtype, device="meta", requires_grad=val.requires_grad)
