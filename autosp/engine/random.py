"""Random numbers under a split: each rank of a group draws from a stream of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..solve import Plan
from ..solve.strategies import is_random

_ODD = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: neighbouring ranks get distant seeds


def with_own_stream(program: Callable, plan: Plan, rank: int) -> Callable:
    """`program`, which draws from a stream that is this rank's own, where the plan draws at all.

    The stream is seeded from the process's default generator, one number a call, so that a user's
    `torch.manual_seed` reproduces a run; that generator is otherwise left as it was.
    """
    if plan.p == 1 or not any(is_random(op) for op in plan.chosen):
        return program

    def run(*args):
        seed = int(torch.randint(2**62, ()).item())
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices):
            torch.manual_seed((seed + rank * _ODD) % 2**63)
            return program(*args)

    return run
