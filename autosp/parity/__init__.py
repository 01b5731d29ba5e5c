"""A sharded program against the unsharded one: trials, real ranks, ranks on threads of one process, and the verdict.

What needs torch is imported when it is first used: the command line starts ranks and compares numbers without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .simulation import Simulation, run_ranks, simulate

__all__ = ["Simulation", "run_ranks", "simulate"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(".simulation", __name__), name)
    globals()[name] = value
    return value
