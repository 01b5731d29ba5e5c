"""Capture without running: Dynamo traces the model, nothing is computed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import fx

from ..compat.torch import BackendCompilerFailed, dynamo_settings
from ..compat.transformers import without_gradient_hooks
from ..errors import AutospError
from .captured import Captured
from .global_view import LayoutOf, capture
from .names import name_modules


def trace(
    model: Callable,
    inputs: Mapping[str, object],
    *,
    layout_of: LayoutOf = lambda name, x: None,
    dynamic: bool = False,
) -> tuple[Captured, Sequence]:
    """The global-view graph of `model(**inputs)` and the graph's example inputs, in order.

    Raises what `capture` raises, or Dynamo's own error where the model breaks the graph.
    """
    found: list = []

    def backend(gm: fx.GraphModule, example_inputs):
        names = name_modules(gm, example_inputs, model)
        captured = capture(gm, example_inputs, layout_of=layout_of, dynamic=dynamic, names=names)
        found.append((captured, tuple(example_inputs)))
        return _not_run

    torch.compiler.reset()
    with tracing(model):
        try:
            torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)(**inputs)
        except BackendCompilerFailed as e:
            if isinstance(e.inner_exception, AutospError):
                raise e.inner_exception from e.inner_exception.__cause__
            raise
        except _Traced:
            pass
    torch.compiler.reset()
    return found[0]


class _Traced(Exception):
    """Ends a traced call before Dynamo assigns the graph's results to attributes of the model."""


def _not_run(*args):
    raise _Traced


@contextlib.contextmanager
def tracing(model: torch.nn.Module) -> Iterator[None]:
    """How Dynamo is to trace for us: equal sizes keep their own symbols, numbers stay numbers, and loggers (GPT-2's
    `warning_once`) do not break the graph. Nor do hooks that ask for the gradient of a module's output, so that parts
    may be computed again: no parameter's gradient depends on them."""
    with dynamo_settings(_loggers()), without_gradient_hooks(model):
        yield


def _loggers() -> set:
    ignored = {logging.Logger.warning, logging.Logger.info, logging.Logger.debug, logging.Logger.error}
    once = getattr(logging.Logger, "warning_once", None)  # added by transformers where it is imported
    return ignored | ({once} if once else set())
