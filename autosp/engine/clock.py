"""What a compiled model's steps take."""

from __future__ import annotations

import time

import attrs
import torch


@attrs.define
class Clock:
    """Seconds from one call of a compiled model to the next, and the most memory between them."""

    calls: int = 0
    seconds: float | None = None
    peak: int | None = None
    _began: float = 0.0

    def tick(self) -> None:
        """A call begins. The first one compiles: what it took is not a step's."""
        now = time.perf_counter()
        if self.calls > 1:
            self.seconds = now - self._began
            self.peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.calls, self._began = self.calls + 1, now
