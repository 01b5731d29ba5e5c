"""Bytes that a program really holds, as the allocator sees them: for tests and benchmarks, on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch.profiler import ProfilerActivity, profile, record_function

_FORWARD, _BACKWARD = "autosp forward", "autosp backward"


@attrs.frozen
class Bytes:
    """Beyond what was there before the step: at the fullest moments, and between forward and backward."""

    forward: int
    between: int
    backward: int

    @property
    def peak(self) -> int:
        return max(self.forward, self.backward)


def step(forward: Callable[[], torch.Tensor]) -> Bytes:
    """The bytes of one step; its second part is the backward of what `forward` gives."""
    with profile(profile_memory=True, activities=[ProfilerActivity.CPU]) as seen:
        with record_function(_FORWARD):
            loss = forward()
        with record_function(_BACKWARD):
            loss.backward()
    now, phase, most, between = 0, "", {_FORWARD: 0, _BACKWARD: 0}, 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() in most:
            phase, between = event.name(), now
        elif event.name() == "[memory]":
            now += event.nbytes()
            if phase:
                most[phase] = max(most[phase], now)
    return Bytes(most[_FORWARD], between, most[_BACKWARD])
