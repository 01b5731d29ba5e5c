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
from .meter import GiB, measure
from .models import batch, llama
from .rank import DTYPE, SPEC

MORE = 1.05
STEP = 1024


def run(size: dict[str, Any], place: str, stem: Path, tell) -> dict[str, Any]:
    """The allocator is held to what the plan takes for usable: the rest of the card is no tensor's. Where the longest
    length runs out there, it is tried on all of its memory. size: `most`, bytes of the card that are used at most: a
    length that fills a larger one takes minutes a step."""
    device = with_memory(device_of(place), place)
    device = attrs.evolve(device, memory=min(device.memory, size["most"]))
    mesh = first_of(1, place)
    plan = _plan(size, place, device)
    if plan is None:
        return {"line": f"nothing fits {device.memory / GiB:.3f} GiB", "longest": 0, "tries": []}
    found: dict[str, Any] = {
        "longest": plan.length, "predicted": plan.peak_bytes, "usable": device.usable, "memory": device.memory,
        "tries": [],
    }  # fmt: skip
    more = -(-int(MORE * plan.length) // STEP) * STEP

    def attempt(length: int, room: int) -> bool:
        tried = {"length": length, "room": room} | _trained(size, place, device, mesh, length, room)
        found["tries"].append(tried)
        tell(found | {"line": _line(found)})
        return tried["trained"]

    if not attempt(plan.length, device.usable):
        attempt(plan.length, device.memory)
    attempt(more, device.usable)
    return found | {"line": _line(found)}


def _line(found: dict[str, Any]) -> str:
    tries = ", ".join(
        f"{t['length']:,} in {t['room'] / GiB:.2f} GiB "
        + (f"trains (peak {t['peak'] / GiB:.2f})" if t["trained"] else "runs out")
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
    """A step with AdamW, whose states are there. room: bytes that the allocator may take."""
    torch.compiler.reset()
    if place == "cuda":
        torch.cuda.set_per_process_memory_fraction(min(room / torch.cuda.mem_get_info()[1], 1.0))
        torch.cuda.reset_peak_memory_stats()
    try:
        return _step(size, place, device, mesh, length, room)
    except Exception as e:
        if not isinstance(e, torch.OutOfMemoryError) and "out of memory" not in str(e):
            raise
        return {"trained": False, "why": str(e)[:300]}
    finally:
        gc.collect()
        if place == "cuda":
            torch.cuda.empty_cache()


def _step(size: dict[str, Any], place: str, device: Device, mesh, length: int, room: int) -> dict[str, Any]:
    model = llama(size["model"], place, DTYPE[place], length)
    optimizer = Masters(model)
    compiled = autosp.compile(
        model, SPEC, mesh=mesh, device=device, backend=size["backend"], recompute=size["recompute"],
        grad_reduce="engine",
    )  # fmt: skip
    inputs = batch(size["model"]["vocab_size"], length, place)
    step = measure(place, lambda: compiled(**inputs).loss, lambda: None, 0, _states(model))
    optimizer.step()
    peak = max(step.peak, torch.cuda.max_memory_allocated()) if place == "cuda" else step.peak
    return {"trained": place == "cuda" or peak <= room, "peak": peak, "reserved": step.reserved, "loss": step.loss}


def _states(model: torch.nn.Module) -> int:
    """Bytes of parameters in fp32 and of AdamW's two moments: what there is before a step of the rehearsal."""
    return sum(p.numel() * (p.element_size() + 8) for p in model.parameters())


class Masters:
    """AdamW on fp32 copies of a model's parameters, as mixed precision has it; its moments are there from the start."""

    def __init__(self, model: torch.nn.Module):
        self.own = list(model.parameters())
        self.masters = [torch.nn.Parameter(p.detach().float()) for p in self.own]
        self.adamw = torch.optim.AdamW(self.masters, lr=1e-5, fused=True)
        for p in self.own:
            p.grad = torch.zeros_like(p)
        self.step()

    def step(self) -> None:
        for master, p in zip(self.masters, self.own, strict=True):
            master.grad, p.grad = p.grad.float(), None
        self.adamw.step()
        with torch.no_grad():
            for master, p in zip(self.masters, self.own, strict=True):
                p.copy_(master)
                master.grad = None
