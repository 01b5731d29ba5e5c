"""A step's seconds and bytes: CUDA's events and allocator; on the CPU a clock and the profiler's events."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import attrs
import torch
from torch.profiler import ProfilerActivity, profile

from .unpromised import allocations

GiB = 2**30


@attrs.frozen
class Step:
    """seconds: the median. Of the last step: peak, the most bytes allocated, with what was there before; between, those
    beyond it when the forward has ended; forward_peak, the most by then; reserved, what the allocator took (None on
    the CPU)."""

    seconds: float
    all_seconds: list[float]
    peak: int
    between: int
    forward_peak: int
    reserved: int | None
    loss: float


def measure(
    place: str, forward: Callable[[], torch.Tensor], clear: Callable[[], None], steps: int, held: int = 0
) -> Step:
    """`steps` steps after one that compiles; of 0 steps, that one.

    clear: frees the gradients. held: bytes that are there before a step, for the CPU, whose events tell what is added.
    """
    one = _on_cuda if place == "cuda" else _on_cpu
    clear()
    found = [one(forward)]  # compiles
    found = found[:0] if steps else found
    for _ in range(steps):
        clear()
        found.append(one(forward))
    last = found[-1]
    seconds = [f["seconds"] for f in found]
    there = held if place == "cpu" else 0
    return Step(
        statistics.median(seconds), seconds, last["peak"] + there, last["between"], last["forward_peak"] + there,
        last["reserved"], last["loss"],
    )  # fmt: skip


def _on_cuda(forward: Callable[[], torch.Tensor]) -> dict[str, Any]:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    begin.record()
    loss = forward()
    between, forward_peak = torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated()
    loss.backward()
    end.record()
    torch.cuda.synchronize()
    return {
        "seconds": begin.elapsed_time(end) / 1e3, "peak": torch.cuda.max_memory_allocated(), "between": between,
        "forward_peak": forward_peak, "reserved": torch.cuda.max_memory_reserved(), "loss": float(loss.detach()),
    }  # fmt: skip


def _on_cpu(forward: Callable[[], torch.Tensor]) -> dict[str, Any]:
    begin = time.perf_counter()
    with profile(profile_memory=True, activities=[ProfilerActivity.CPU]) as seen:
        loss = forward()
        ended = time.time_ns()
        loss.backward()
    seconds = time.perf_counter() - begin
    now = most = between = forward_peak = 0
    for at, count in allocations(seen):
        now += count
        most = max(most, now)
        if at <= ended:
            between, forward_peak = now, most
    return {
        "seconds": seconds, "peak": most, "between": between, "forward_peak": forward_peak, "reserved": None,
        "loss": float(loss.detach()),
    }  # fmt: skip


def seconds_of(place: str, work: Callable[[], Any], tries: int) -> float:
    """The median seconds of a call, after one that warms up."""
    work()
    found = []
    for _ in range(tries):
        if place == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            work()
            end.record()
            torch.cuda.synchronize()
            found.append(begin.elapsed_time(end) / 1e3)
        else:
            started = time.perf_counter()
            work()
            found.append(time.perf_counter() - started)
    return statistics.median(found)


KINDS = {
    "attention": ("flash", "fmha", "attention", "sdpa"),
    "matmul": ("gemm", "nvjet", "cutlass", "cublas", "xmma", "wgmma", "::mm", "::bmm", "::addmm", "::linear", "splitk"),
    "copies": ("memcpy", "memset", "::copy_", "direct_copy", "catarray"),
    "fused": ("triton_", "cpp_fused"),
}


REGIONS = ("##", "Torch-Compiled", "ProfilerStep", "autograd::")  # what holds kernels, and is none


def kind_of(kernel: str) -> str:
    """What a kernel does, by its name."""
    name = kernel.lower()
    return next((kind for kind, words in KINDS.items() if any(w in name for w in words)), "other")


def profiled(place: str, forward: Callable[[], torch.Tensor], most: int = 8) -> dict[str, Any]:
    """Seconds of one step by kind of kernel, the slowest kernels, and the operators that allocated the most."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if place == "cuda" else [])]
    with profile(activities=activities, profile_memory=True) as seen:
        forward().backward()
        if place == "cuda":
            torch.cuda.synchronize()
    rows = seen.key_averages()
    if place == "cuda":
        ran = [r for r in rows if "CUDA" in str(r.device_type) and not r.key.startswith(REGIONS)]
        ran = [r for r in ran if not r.is_user_annotation]
        kernels = [(r.key, r.self_device_time_total / 1e6, r.count) for r in ran]
        bytes_ = [(r.key, r.self_device_memory_usage) for r in rows]
    else:
        kernels = [(r.key, r.self_cpu_time_total / 1e6, r.count) for r in rows]
        bytes_ = [(r.key, r.self_cpu_memory_usage) for r in rows]
    kinds: dict[str, float] = {}
    for name, seconds, _ in kernels:
        kinds[kind_of(name)] = kinds.get(kind_of(name), 0.0) + seconds
    slow = sorted(kernels, key=lambda k: -k[1])[:most]
    large = sorted(bytes_, key=lambda b: -b[1])[:most]
    return {
        "seconds": {k: round(v, 6) for k, v in sorted(kinds.items())},
        "slowest": [{"kernel": n[:100], "seconds": round(s, 6), "calls": c} for n, s, c in slow if s > 0],
        "allocated": [{"operator": n[:100], "bytes": b} for n, b in large if b > 0],
    }
