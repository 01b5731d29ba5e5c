"""Work that is done without Python's garbage collector."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Args = ParamSpec("Args")
Result = TypeVar("Result")


def uncollected(work: Callable[Args, Result]) -> Callable[Args, Result]:
    """`work` with the collector off: beside what Dynamo leaves it would walk a million objects again and again, and find
    little. What is left in cycles waits until after it."""

    @functools.wraps(work)
    def wrapped(*args: Args.args, **kwargs: Args.kwargs) -> Result:
        on = gc.isenabled()
        gc.disable()
        try:
            return work(*args, **kwargs)
        finally:
            if on:
                gc.enable()

    return wrapped
