"""Output for a machine: one JSON value on stdout. What else would be written there (by a library, its C code, or the
user's model) goes to stderr meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

import click

_KEY = "autosp.stdout"


def json_option(help: str = "Machine-readable."):
    """The option `--json` of a command, given to it as `as_json`; it answers with `say_json`."""
    return click.option("--json", "as_json", is_flag=True, is_eager=True, callback=_set_apart, help=help)


def say_json(value: Any) -> None:
    """The one value that a command with `--json` prints."""
    stdout = click.get_current_context().meta.get(_KEY, sys.stdout)
    stdout.write(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")
    stdout.flush()


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _set_apart(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    if value:
        ctx.meta[_KEY] = ctx.with_resource(_stdout_apart())
    return value


@contextlib.contextmanager
def _stdout_apart() -> Iterator[TextIO]:
    """The real stdout; `sys.stdout` and the file descriptor under it lead to stderr until the end."""
    real, number = sys.stdout, _number_of(sys.stdout)
    real.flush()
    with contextlib.ExitStack() as stack:
        if number is not None:
            stdout = stack.enter_context(_descriptor_apart(number, real.encoding))
        else:  # a test's
            stdout = real
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield stdout


@contextlib.contextmanager
def _descriptor_apart(number: int, encoding: str) -> Iterator[TextIO]:
    flush_c()
    elsewhere = _number_of(sys.stderr)
    with open(os.dup(number), "w", encoding=encoding) as real:
        os.dup2(elsewhere if elsewhere is not None else os.open(os.devnull, os.O_WRONLY), number)
        try:
            yield real
        finally:
            flush_c()  # what C code has in its buffer was written while stdout was apart
            os.dup2(real.fileno(), number)


def flush_c() -> None:
    """Writes out the buffers of the C library, which know nothing of Python's."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)


def _number_of(stream: Any) -> int | None:
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None
