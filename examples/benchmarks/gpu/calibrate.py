"""f. A device file of this card: what matmul, attention, elementwise work, copies and the host's link reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from autosp.solve import Device, load_device

from .card import device_of
from .meter import seconds_of

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def run(size: dict[str, Any], place: str, stem: Path, tell) -> dict[str, Any]:
    shipped = device_of(place)
    measured = {"memory": torch.cuda.mem_get_info()[1] if place == "cuda" else shipped.memory}
    for name, dtype in DTYPES.items():
        measured[f"matmul {name}"] = _matmul(size, place, dtype)
    tell({"measured": measured})
    dtype = torch.bfloat16 if place == "cuda" else torch.float32
    measured["attention forward"], measured["attention backward"] = _attention(size, place, dtype)
    measured["elementwise"], measured["copy"] = _traffic(size, place)
    if place == "cuda":
        measured["to host"], measured["from host"] = links(size["copy"], size["tries"])
    text = written(shipped, measured)
    file = stem.with_suffix(".device")
    file.write_text(text)
    own = load_device(str(file))
    return {
        "line": f"matmul bf16 {measured['matmul bf16'] / 1e12:.4g} TFLOP/s, attention "
        f"{measured['attention forward'] / 1e12:.4g}, memory {measured['copy'] / 1e9:.4g} GB/s; efficiency "
        f"{own.efficiency:.3f} (shipped {shipped.efficiency})",
        "measured": measured, "device": text, "rows": compared(shipped, own),
    }  # fmt: skip


def _matmul(size: dict[str, Any], place: str, dtype: torch.dtype) -> float:
    n = size["matmul"]
    a, b = (torch.randn(n, n, device=place, dtype=torch.float32).to(dtype) for _ in range(2))
    return 2 * n**3 / seconds_of(place, lambda: a @ b, size["tries"])


def _attention(size: dict[str, Any], place: str, dtype: torch.dtype) -> tuple[float, float]:
    """FLOP/s of causal attention, forward and backward (2.5 times the work), heads of 128."""
    n, heads, width = size["attention"], 8, 128
    q, k, v = (torch.randn(1, heads, n, width, device=place, dtype=dtype, requires_grad=True) for _ in range(3))
    work = 2.0 * heads * n * n * width * 2 / 2
    forward = seconds_of(place, lambda: scaled_dot_product_attention(q, k, v, is_causal=True), size["tries"])
    gradient = torch.randn_like(q)

    def both() -> None:
        torch.autograd.grad(scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v), gradient)

    backward = max(seconds_of(place, both, size["tries"]) - forward, 1e-9)
    return work / forward, 2.5 * work / backward


def _traffic(size: dict[str, Any], place: str) -> tuple[float, float]:
    """Bytes/s, read and written, of a sum of two tensors and of a copy."""
    a, b = (torch.randn(size["elements"], device=place, dtype=torch.bfloat16) for _ in range(2))
    out, bytes_ = torch.empty_like(a), a.numel() * a.element_size()
    added = seconds_of(place, lambda: torch.add(a, b, out=out), size["tries"])
    copied = seconds_of(place, lambda: out.copy_(a), size["tries"])
    return 3 * bytes_ / added, 2 * bytes_ / copied


def links(count: int, tries: int) -> tuple[float, float]:
    """Bytes/s to pinned memory of the host, and back."""
    here = torch.empty(count, dtype=torch.uint8, device="cuda")
    there = torch.empty(count, dtype=torch.uint8).pin_memory()
    out = seconds_of("cuda", lambda: there.copy_(here, non_blocking=True), tries)
    back = seconds_of("cuda", lambda: here.copy_(there, non_blocking=True), tries)
    return count / out, count / back


def written(shipped: Device, measured: dict[str, float]) -> str:
    """A device file: peaks are the data sheet's, the efficiency is what a bf16 matmul reaches of its own."""
    host = min(measured.get("to host", shipped.host), measured.get("from host", shipped.host))
    memory = measured["memory"] / 2**30
    return "\n".join([
        "# Measured by `python -m examples.benchmarks.gpu`. Peaks, reserve, node and links between cards are the",
        "# shipped file's: one card cannot tell them. Attention reached "
        f"{measured['attention forward']:.3g} FLOP/s forward and",
        f"# {measured['attention backward']:.3g} backward, elementwise work {measured['elementwise']:.3g} bytes/s.",
        f"device      {shipped.name}-measured",
        *(f"peak        {name} {value:g}" for name, value in shipped.peak.items()),
        f"efficiency  {measured['matmul bf16'] / shipped.peak['bf16']:.4f}",
        f"memory      {memory:.2f}GiB",
        f"reserve     {shipped.reserve / 2**30:g}GiB",
        f"bandwidth   {measured['copy']:.4g}",
        f"host        {host:.4g}",
        f"node        {shipped.node}",
        f"link inside {shipped.inside[0]:g} {shipped.inside[1]:g}",
        f"link across {shipped.across[0]:g} {shipped.across[1]:g}",
        "",
    ])  # fmt: skip


def compared(shipped: Device, own: Device) -> list[dict[str, Any]]:
    """Each figure that a card tells, shipped and measured."""
    names = ("efficiency", "memory", "bandwidth", "host")
    return [{"figure": n, "shipped": getattr(shipped, n), "measured": getattr(own, n)} for n in names]


__all__ = ["links", "run", "written"]
