"""c. The longest sequence that the plan says fits this card trains, and five percent more runs out of memory."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import attrs
import torch

import autosp
from autosp.solve import Device

from .card import device_of, with_memory
from .group import first_of
from .meter import GiB
from .models import batch, llama
from .rank import DTYPE, SPEC

MORE = 1.05
STEP = 1024


def run(size: dict[str, Any], place: str, stem: Path, tell) -> dict[str, Any]:
    """size: `memory`, bytes for the plan, and `whole`, those of the card: the rehearsal's, where no allocator runs out."""
    device = with_memory(device_of(place), place)
    if "memory" in size:
        device = attrs.evolve(device, memory=size["memory"], reserve=0)
    mesh = first_of(1, place)
    plan = _plan(size, place, device)
    if plan is None:
        return {"line": f"nothing fits {device.memory / GiB:.3f} GiB", "longest": 0, "tries": []}
    found: dict[str, Any] = {
        "longest": plan.length, "predicted": plan.peak_bytes, "usable": device.usable, "memory": device.memory,
        "tries": [],
    }  # fmt: skip
    whole, planned = size.get("whole", device.memory), device.usable
    more = -(-int(MORE * plan.length) // STEP) * STEP
    for length, room in ((plan.length, whole), (more, whole), (more, planned)):
        if len(found["tries"]) == 2 and not found["tries"][-1]["trained"]:
            break  # the reserve need not be taken away for it to run out
        found["tries"].append({"length": length, "room": room} | _trained(size, place, device, mesh, length, room))
        tell(found | {"line": _line(found)})
    return found | {"line": _line(found)}


def _line(found: dict[str, Any]) -> str:
    tries = ", ".join(
        f"{t['length']:,} of {t['room'] / GiB:.2f} GiB "
        + (f"trains (peak {t['peak'] / GiB:.2f}, {t['seconds']:.2f} s)" if t["trained"] else "runs out")
        for t in found["tries"]
    )
    return f"longest {found['longest']:,} tokens, predicted peak {found['predicted'] / GiB:.2f} GiB; {tries}"


def _plan(size: dict[str, Any], place: str, device: Device):
    def make() -> torch.nn.Module:
        return llama(size["model"], "meta", torch.float32, size["hint"])

    inputs = {n: torch.zeros(1, size["hint"], dtype=torch.long) for n in ("input_ids", "labels")}
    return autosp.plan(
        make, inputs, SPEC, sp=1, device=device, zero=0, dtype=DTYPE[place], recompute=size["recompute"]
    ).longest()


def _trained(size: dict[str, Any], place: str, device: Device, mesh, length: int, room: int) -> dict[str, Any]:
    """A few steps with AdamW. room: bytes that the allocator may take."""
    torch._dynamo.reset()
    if place == "cuda":
        torch.cuda.set_per_process_memory_fraction(min(room / torch.cuda.mem_get_info()[1], 1.0))
        torch.cuda.reset_peak_memory_stats()
    try:
        return _steps(size, place, device, mesh, length, room)
    except torch.OutOfMemoryError as e:
        return {"trained": False, "why": str(e)[:300]}
    finally:
        gc.collect()
        if place == "cuda":
            torch.cuda.empty_cache()


def _steps(size: dict[str, Any], place: str, device: Device, mesh, length: int, room: int) -> dict[str, Any]:
    from .meter import measure

    model = llama(size["model"], place, DTYPE[place], length)
    optimizer = Masters(model) if DTYPE[place] != torch.float32 else torch.optim.AdamW(model.parameters())
    compiled = autosp.compile(
        model, SPEC, mesh=mesh, device=device, backend=size["backend"], recompute=size["recompute"], grad_reduce="engine"
    )
    inputs = batch(size["model"]["vocab_size"], length, place)

    def clear() -> None:
        """The optimizer's step, and no gradient any more."""
        if any(p.grad is not None for p in model.parameters()):
            optimizer.step()
        model.zero_grad(set_to_none=True)

    step = measure(place, lambda: compiled(**inputs).loss, clear, size["steps"], _states(model, optimizer))
    clear()
    peak = max(step.peak, torch.cuda.max_memory_allocated()) if place == "cuda" else step.peak
    found = {"peak": peak, "reserved": step.reserved, "seconds": step.seconds, "loss": step.loss}
    return found | {"trained": place == "cuda" or peak <= room}


def _states(model: torch.nn.Module, optimizer: Any) -> int:
    """Bytes of parameters and of AdamW's two moments in fp32."""
    return sum(p.numel() * (p.element_size() + 8) for p in model.parameters())


class Masters:
    """AdamW on fp32 copies of a model's parameters, as mixed precision has it."""

    def __init__(self, model: torch.nn.Module):
        self.own = list(model.parameters())
        self.masters = [torch.nn.Parameter(p.detach().float()) for p in self.own]
        self.adamw = torch.optim.AdamW(self.masters, lr=1e-5, fused=True)

    def step(self) -> None:
        for master, p in zip(self.masters, self.own, strict=True):
            master.grad, p.grad = p.grad.float(), None
        self.adamw.step()
        with torch.no_grad():
            for master, p in zip(self.masters, self.own, strict=True):
                p.copy_(master)
                master.grad = None
