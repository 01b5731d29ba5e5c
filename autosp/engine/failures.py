"""What went wrong in a compiled call, as its user should read it: Dynamo wraps what a backend
raises, and words what a model does that no graph can hold."""

from __future__ import annotations

import contextlib
import linecache
import re
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from traceback import FrameSummary

import attrs
import torch

from ..compat.torch import (
    BackendCompilerFailed,
    FailOnRecompileLimitHit,
    TorchRuntimeError,
    UncapturedHigherOrderOpError,
    Unsupported,
    UserError,
    recompile_limit,
)
from ..errors import AutospError, CaptureError, Problem

# Kinds of graph breaks by Dynamo's name for them, and what to do about each; others get `_ANY_FIX`.
FIXES = {
    "Data-dependent branching": "compute both sides and choose with torch.where, or decide outside the model",
    "Unsupported Tensor.item() call with capture_scalar_outputs=False": "keep the value a tensor",
    "Dynamic shape operator": "keep sizes independent of values: a mask instead of indexing by one",
    "Data dependent operator": "keep sizes independent of values: a mask instead of indexing by one",
}
_SAME = "the model runs as it stands, without autosp, on the same inputs"
_ANY_FIX = "take that line out of the forward, or try torch.compile(model, fullgraph=True, backend='eager') alone"


def as_raised(error: Exception, module: torch.nn.Module) -> Exception:
    """The error that the user of `module` should see: an autosp error as itself, a graph break as a
    CaptureError, anything else as it came."""
    if isinstance(error, BackendCompilerFailed) and isinstance(error.inner_exception, AutospError):
        return error.inner_exception
    if isinstance(error, FailOnRecompileLimitHit):
        return CaptureError(too_many_sizes(recompile_limit(), type(module).__name__))
    if isinstance(error, TorchRuntimeError):
        return CaptureError(not_traced(str(error.msg), list(error.real_stack), module))
    if isinstance(error, (Unsupported, UserError, UncapturedHigherOrderOpError)):
        return CaptureError(_broken(str(error.msg), list(error.real_stack), module))
    return error


@contextlib.contextmanager
def placed(where: str) -> Iterator[None]:
    """Errors raised within say where, if they do not say it themselves."""
    try:
        yield
    except AutospError as e:
        if all(problem.where for problem in e.problems):
            raise
        raise type(e)([attrs.evolve(p, where=p.where or where) for p in e.problems]) from e.__cause__


def _broken(message: str, stack: list[FrameSummary], module: torch.nn.Module) -> Problem:
    return (raises if _kind(message) == "Observed exception" else broken_graph)(message, stack, module)


def raises(message: str, stack: list[FrameSummary], module: torch.nn.Module) -> Problem:
    return Problem(
        what="the forward raises an exception of its own",
        rule=_SAME,
        fix="look at that line: the model refuses these inputs",
        where=where(stack, module),
    )


def broken_graph(message: str, stack: list[FrameSummary], module: torch.nn.Module) -> Problem:
    kind = _kind(message)
    why = "" if kind in FIXES else _said(message, "Explanation:")
    return Problem(
        what=f"the model breaks the graph: {kind}" + (f": {why}" if why else ""),
        rule="autosp works on one full graph: nothing in the forward may depend on values in Python",
        fix=FIXES.get(kind, _ANY_FIX),
        where=where(stack, module),
    )


def not_traced(message: str, stack: list[FrameSummary], module: torch.nn.Module) -> Problem:
    why = _said(message, "Explanation:") or _kind(message)
    cause = re.search(r": got (\w+)\(([\"'])(.*)\2\)$", why)
    return Problem(
        what=f"an operator of the model fails on these inputs: {f'{cause[1]}: {cause[3]}' if cause else why}",
        rule=_SAME,
        fix="call the model once without autosp.compile and mend what fails there",
        where=where(stack, module),
    )


def too_many_sizes(limit: int, model: str) -> Problem:
    return Problem(
        what=f"{model} was compiled {limit} times and is called with yet another size, or in another mode",
        rule=f"each length is compiled for itself, at most {limit} times (torch._dynamo.config.recompile_limit)",
        fix="compile once for all lengths with autosp.compile(..., dynamic=True), or pad to a few lengths",
        where="autosp.compile",
    )


def where(stack: list[FrameSummary], module: torch.nn.Module) -> str:
    """`file.py:12 in forward: code (model.layers.0.mlp, a LlamaMLP)` of the innermost user frame."""
    if not stack:
        return f"the forward of {type(module).__name__}"
    last = stack[-1]
    code = (last.line or linecache.getline(last.filename, last.lineno or 0)).strip()
    place = f"{PurePath(last.filename).name}:{last.lineno} in {last.name}: {code}"
    path = next(_modules_at(reversed(stack), module), None)
    if path is None:
        return place
    name = type(module.get_submodule(path)).__name__
    return f"{place} ({path}, a {name})" if path else f"{place} ({name})"


def _modules_at(frames: Iterable[FrameSummary], module: torch.nn.Module) -> Iterator[str]:
    """Paths of the modules whose forward a frame stands in, innermost first."""
    for frame in frames:
        for path, each in module.named_modules():
            code = getattr(type(each).forward, "__code__", None)
            if code is not None and code.co_filename == frame.filename:
                lines = [line for _, _, line in code.co_lines() if line is not None]
                if min(lines) <= (frame.lineno or 0) <= max(lines):
                    yield path


def _kind(message: str) -> str:
    return (message.strip().splitlines() or ["unknown"])[0].rstrip(".")


def _said(message: str, label: str) -> str:
    """What Dynamo says after a label, on that line."""
    for line in message.splitlines():
        if line.strip().startswith(label):
            return line.strip().removeprefix(label).strip().rstrip(".")
    return ""
