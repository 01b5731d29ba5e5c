"""What went wrong in a compiled call, as its user should read it: Dynamo wraps what a backend
raises, and words what a model does that no graph can hold."""

from __future__ import annotations

import builtins
import contextlib
import inspect
import linecache
import re
from collections.abc import Callable, Iterator
from pathlib import PurePath
from traceback import FrameSummary, extract_tb

import attrs
import torch

from ..capture import Captured
from ..capture.assertions import texts
from ..compat.torch import (
    BackendCompilerFailed,
    GuardOnDataDependentSymNode,
    InternalTorchDynamoError,
    TorchRuntimeError,
    UncapturedHigherOrderOpError,
    Unsupported,
    UserError,
)
from ..errors import AutospError, CaptureError, Problem
from ..spec.paths import common_pattern

# Kinds of graph breaks by Dynamo's name for them, and what to do about each; others get `_ANY_FIX`.
_REQUIRES_GRAD = (
    "leave requires_grad_() out: parameters get their gradients without it, and a graph keeps none of a value"
)
FIXES = {
    "returning intermediate with requires_grad_()": _REQUIRES_GRAD,
    "Unsupported Tensor.requires_grad_() call": _REQUIRES_GRAD,  # torch 2.11
    "Data-dependent branching": "compute both sides and choose with torch.where, or decide outside the model",
    "Unsupported Tensor.item() call with capture_scalar_outputs=False": "keep the value a tensor",
    "Dynamic shape operator": "keep sizes independent of values: a mask instead of indexing by one",
    "Data dependent operator": "write it in operators that read no value: products and sums for a covariance, a mask "
    "instead of indexing by one",
}
_BOUND = re.compile(r"(zu|u)f?\d+ [<>=!]+ ")  # what Inductor says of a number that the data tell
_GUARD = re.compile(r"Could not (guard on|extract specialized \w+ from) data-dependent expression (.*?)( \(unhinted|$)")
_SAY = (
    "say what holds, torch._check(...) for a number and torch._check_tensor_all(...) for a tensor, or decide outside "
    "the model"
)
_KEEP = "keep it a tensor: multiply by a mask in place of splitting by counts, or call F.grouped_mm, whose ends are one"
_RAISED = re.compile(r"raised exception (\w+)\(([\"'])(.*)\2\)")
_SAME = "the model runs as it stands, without autosp, on the same inputs"
_ANY_FIX = "take that line out of the forward, or try torch.compile(model, fullgraph=True, backend='eager') alone"


def as_raised(error: Exception, module: torch.nn.Module) -> Exception:
    """The error that the user of `module` should see: an autosp error as itself, a graph break as a
    CaptureError, anything else as it came."""
    if isinstance(error, BackendCompilerFailed) and isinstance(error.inner_exception, AutospError):
        return error.inner_exception
    if isinstance(error, TorchRuntimeError):
        return CaptureError(not_traced(str(error.msg), list(error.real_stack), module))
    if isinstance(error, (Unsupported, UserError, UncapturedHigherOrderOpError)):
        message, stack = str(error.msg), list(error.real_stack)
        if _kind(message) == "Observed exception":
            return _of_the_model(message, raises(message, stack, module))
        return _caused(CaptureError(broken_graph(message, stack, module)), error)
    if isinstance(error, BackendCompilerFailed):
        return _caused(CaptureError(not_compiled(error.inner_exception, module)), error.inner_exception)
    if isinstance(error, GuardOnDataDependentSymNode):  # it leaves Dynamo as it is, with the user's frames
        stack = list(getattr(error, "real_stack", None) or [])
        return _caused(CaptureError(undecided(_kind(str(error)), where(stack, module))), error)
    if isinstance(error, InternalTorchDynamoError):
        return _caused(CaptureError(not_compiled(error, module)), error)
    return error


def _caused(error: Exception, by: BaseException) -> Exception:
    error.__cause__ = by
    return error


def _of_the_model(message: str, problem: Problem) -> Exception:
    """An exception of the user's own code as a CaptureError that is of its type, too, caused by one like it."""
    match = _RAISED.search(message)
    kind = getattr(builtins, match[1], None) if match else None
    if match is None or not (isinstance(kind, type) and issubclass(kind, Exception)):
        return CaptureError(problem)

    class _Own(CaptureError, kind):
        __reduce__ = _as_capture_error

    _Own.__name__ = _Own.__qualname__ = "CaptureError"
    try:
        return _caused(_Own(problem), kind(match[3]))
    except TypeError:  # it takes other arguments (UnicodeDecodeError)
        return CaptureError(problem)


def _as_capture_error(error: CaptureError) -> tuple:
    return CaptureError, (error.problems,)


def asserting(program: Callable, captured: Captured) -> Callable:
    """`program`, whose assertions fail in four parts. (Of one on a number that the data tell, Inductor raises the
    bound alone: `u2 >= 1`.)"""
    assertions = texts(captured.graph)
    if not assertions:
        return program

    def run(*args):
        try:
            return program(*args)
        except RuntimeError as e:
            failed = [text for message, text in assertions.items() if message in str(e)]
            if failed or _BOUND.match(str(e)):
                raise RuntimeError("\n\n".join(dict.fromkeys(failed or assertions.values()))) from e
            raise

    return run


@contextlib.contextmanager
def placed(where: str) -> Iterator[None]:
    """Errors raised within say where, if they do not say it themselves."""
    try:
        yield
    except AutospError as e:
        if all(problem.where for problem in e.problems):
            raise
        raise type(e)([attrs.evolve(p, where=p.where or where) for p in e.problems]) from e.__cause__


def not_compiled(error: BaseException, module: torch.nn.Module) -> Problem:
    """A failure of PyTorch's compilers, in the form of no other error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return Problem(
        what=f"the compiler fails on the program: {type(error).__name__}" + (f": {lines[0]}" if lines else ""),
        rule="what autosp makes of a model is compiled by torch.compile's own backends",
        fix="try autosp.compile(..., backend='aot_eager'), and the model alone under torch.compile(fullgraph=True); "
        "the error's __cause__ is the compiler's own",
        where=f"the forward of {type(module).__name__}",
    )


def raises(message: str, stack: list[FrameSummary], module: torch.nn.Module) -> Problem:
    match = _RAISED.search(message)
    return Problem(
        what=f"the forward raises {f'{match[1]}: {match[3]}' if match else 'an exception of its own'}",
        rule=_SAME,
        fix="look at that line: the model refuses these inputs",
        where=where(stack, module),
    )


def undecided(kind: str, place: str) -> Problem:
    """A branch, a bound or a size that hangs on a number which only the data tell."""
    match = _GUARD.match(kind)
    does, fix = f"decides by {match[2] if match else kind}", _SAY
    if match and match[1] != "guard on":
        does, fix = f"needs {match[2]} in Python", _KEEP
    return Problem(
        what=f"the model breaks the graph: it {does}, a number that only the data tell",
        rule="autosp works on one full graph: nothing in the forward may depend on values in Python",
        fix=fix,
        where=place,
    )


def broken_graph(message: str, stack: list[FrameSummary], module: torch.nn.Module) -> Problem:
    kind = _kind(message)
    if _GUARD.match(kind):
        return undecided(kind, where(stack, module))
    why = "" if kind in FIXES else _labelled(message, "Explanation:")
    return Problem(
        what=f"the model breaks the graph: {kind}" + (f": {why}" if why else ""),
        rule="autosp works on one full graph: nothing in the forward may depend on values in Python",
        fix=FIXES.get(kind, _ANY_FIX),
        where=where(stack, module),
    )


def not_traced(message: str, stack: list[FrameSummary], module: torch.nn.Module) -> Problem:
    why = _labelled(message, "Explanation:") or _kind(message)
    cause = re.search(r": got (\w+)\(([\"'])(.*)\2\)$", why)
    return Problem(
        what=f"an operator of the model fails on these inputs: {f'{cause[1]}: {cause[3]}' if cause else why}",
        rule=_SAME,
        fix="call the model once without autosp.compile and mend what fails there",
        where=where(stack, module),
    )


def fails_unsharded(error: Exception, module: torch.nn.Module) -> Problem:
    """A model that fails without autosp, on inputs that were made up for it."""
    stack = list(extract_tb(error.__traceback__))
    last = max((i for i, frame in enumerate(stack) if _modules_at([frame], module)), default=-1)
    lines = str(error).strip().splitlines()
    return Problem(
        what=f"{type(module).__name__} fails unsharded, in plain PyTorch, on a made-up batch: "
        f"{type(error).__name__}{f': {lines[0]}' if lines else ''}",
        rule="a sharded run is compared with the unsharded one",
        fix="let pkg.mod:factory return (model, inputs) with a batch that it takes, or mend that line",
        where=where(stack[: last + 1], module),
    )


def where(stack: list[FrameSummary], module: torch.nn.Module) -> str:
    """`file.py:12 in forward: code (model.layers.*.mlp, a LlamaMLP)` of the innermost user frame."""
    if not stack:
        return f"the forward of {type(module).__name__}"
    last = stack[-1]
    code = (last.line or linecache.getline(last.filename, last.lineno or 0)).strip()
    place = f"{PurePath(last.filename).name}:{last.lineno} in {last.name}: {code}"
    paths = _modules_at(stack, module)
    if not paths:
        return place
    name, path = type(module.get_submodule(paths[0])).__name__, common_pattern(paths)
    return f"{place} ({path}, a {name})" if path else f"{place} ({name})"


def _modules_at(stack: list[FrameSummary], module: torch.nn.Module) -> list[str]:
    """Paths of the modules that the innermost forward of a stack may be of: a frame does not tell
    modules of one class apart, but those further out say what they are in."""
    forwards = [(path, inspect.unwrap(each.forward)) for path, each in module.named_modules()]
    paths: list[str] = []
    for frame in stack:
        here = [path for path, forward in forwards if _stands_in(frame, forward)]
        within = [path for path in here if any(path == p or path.startswith(p and f"{p}.") for p in paths)]
        paths = within or here or paths
    return paths


def _stands_in(frame: FrameSummary, function: Callable) -> bool:
    code = getattr(function, "__code__", None)
    if code is None or code.co_filename != frame.filename:
        return False
    lines = [line for _, _, line in code.co_lines() if line is not None]
    return min(lines) <= (frame.lineno or 0) <= max(lines)


def _kind(message: str) -> str:
    return (message.strip().splitlines() or ["unknown"])[0].rstrip(".")


def _labelled(message: str, label: str) -> str:
    """What Dynamo says after a label, on that line."""
    for line in message.splitlines():
        if line.strip().startswith(label):
            return line.strip().removeprefix(label).strip().rstrip(".")
    return ""
