"""d. Offload: what the link to the host carries, and how much of a step's copies is hidden behind its work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import torch

from autosp.recompute import decide
from autosp.spec.policies import as_recompute

from .calibrate import links
from .card import device_of
from .meter import GiB, Step, measure
from .models import batch, llama
from .program import Program, program
from .rank import DTYPE, SPEC


def run(size: dict[str, Any], place: str, stem: Path, tell) -> dict[str, Any]:
    """The same choice of what is saved twice: once the residual stream stays on the card, once it waits in the host."""
    found: dict[str, Any] = {"to_host": None, "from_host": None, "line": "no link is measured on the CPU"}
    if place == "cuda":
        found["to_host"], found["from_host"] = links(size["copy"], 5)
        found["line"] = f"{found['to_host'] / 1e9:.1f} GB/s to the host, {found['from_host'] / 1e9:.1f} back"
    tell(found)
    model = llama(size["model"], place, DTYPE[place], size["length"])
    inputs = batch(size["model"]["vocab_size"], size["length"], place)
    made = program(model, inputs, SPEC, device_of(place), size["backend"])
    policy = as_recompute("full", None, "offload")
    choice = decide(
        made.local, made.examples, policy, device=made.plan.device, p=1, plan=made.plan.fingerprint(),
        compiler=made.compiler,
    ).choice  # fmt: skip
    steps = {}
    for name, there in (("here", False), ("there", True)):
        torch.compiler.reset()
        steps[name] = _step(size, place, model, made, attrs.evolve(choice, offload=there))
        tell(found | {name: attrs.asdict(steps[name])})
    return found | _told(found, made.residual(), steps)


def _step(size: dict[str, Any], place: str, model: torch.nn.Module, made: Program, choice) -> Step:
    held = sum(p.numel() * p.element_size() for p in model.parameters())
    clear = lambda: model.zero_grad(set_to_none=True)  # noqa: E731
    return measure(place, made.compiled(choice), clear, size["steps"], held)


def _told(found: dict[str, Any], moved: int, steps: dict[str, Any]) -> dict[str, Any]:
    here, there = steps["here"], steps["there"]
    exposed = there.seconds - here.seconds
    copies = moved / found["to_host"] + moved / found["from_host"] if found["to_host"] else None
    hidden = None if copies is None else copies - max(exposed, 0.0)
    link = f"{found['line']}; " if found["to_host"] else ""
    return {
        "moved": moved, "copies": copies, "exposed": exposed, "hidden": hidden,
        "seconds": {name: s.seconds for name, s in steps.items()}, "peak": {name: s.peak for name, s in steps.items()},
        "line": f"{link}{moved / GiB:.3f} GiB each way, "
        + (f"{copies:.3f} s of copies, {hidden:.3f} s hidden, " if copies is not None else "")
        + f"{exposed:+.3f} s exposed; peak {here.peak / GiB:.3f} -> {there.peak / GiB:.3f} GiB",
    }  # fmt: skip
