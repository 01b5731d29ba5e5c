"""What the benchmark uses of other packages beyond what they promise, and what it says where that has moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch


def fake_group() -> None:
    """Registers the backend "fake", a process group that sends nothing."""
    try:
        import torch.testing._internal.distributed.fake_pg  # noqa: F401
    except ImportError as e:
        _moved("process group that sends nothing", e)


def allocations(seen: Any) -> Iterator[tuple[int, int]]:
    """(time in ns, bytes, negative where they are freed) of a profile with its memory, in order."""
    try:
        events = seen.profiler.kineto_results.events()
    except AttributeError as e:
        _moved("events of the profiler's memory", e)
    for event in sorted(events, key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            yield event.start_ns(), event.nbytes()


def memory_of(step: Callable[[], None], most: int = 20000) -> Any:
    """A snapshot of CUDA's allocator after a step, with its history of so many entries."""
    memory = torch.cuda.memory
    try:
        memory._record_memory_history(max_entries=most, stacks="python", context="alloc")
        step()
        torch.cuda.synchronize()
        found = memory._snapshot()
        memory._record_memory_history(enabled=None)
    except AttributeError as e:
        _moved("history of the allocator", e)
    return found


def deepspeeds_recomputation() -> None:
    """DeepSpeed's own rule of what is recomputed, put into PyTorch's partitioner for this process."""
    try:
        from deepspeed.compile.passes.long_context_checkpointing import register_long_context_checkpointing
    except ImportError as e:
        raise SystemExit(f"DeepSpeed's recomputation is not where it was: {e}") from e
    register_long_context_checkpointing()


def _moved(what: str, why: Exception) -> NoReturn:
    raise SystemExit(f"torch {torch.__version__} has no {what} where it was: {why}") from why
