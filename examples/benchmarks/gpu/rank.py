"""b. One rank of several at the layer shapes of a large model: seconds, bytes and MFU, predicted and measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

import autosp
from autosp.engine.measuring import predicted
from autosp.recompute import Decision
from autosp.solve import Device, Plan
from autosp.solve.cost import flops, operator_seconds

from .card import device_of
from .group import first_of
from .meter import GiB, Step, measure, profiled
from .models import batch, llama, model_flops
from .program import program
from .unpromised import deepspeeds_recomputation

SPEC = str(Path(__file__).parents[2] / "specs" / "llama_long.spec")  # the loss and the MLPs in tiles
NAMED = {"peak": 0.05, "seconds": 0.20}  # errors beyond these are named by operator
DTYPE = {"cuda": torch.bfloat16, "cpu": torch.float32}


def run(size: dict[str, Any], place: str, stem: Path, tell) -> dict[str, Any]:
    mesh, device = first_of(size["ranks"], place), device_of(place)
    model = llama(size["model"], place, DTYPE[place], size["length"])
    inputs = batch(size["model"]["vocab_size"], size["length"], place)
    make = _checkpointed if size["setting"] == "checkpoint" else _compiled
    forward, told = make(model, inputs, size, mesh, device)

    def clear() -> None:
        model.zero_grad(set_to_none=True)

    held = sum(p.numel() * p.element_size() for p in model.parameters())
    step = measure(place, forward, clear, size["steps"], held)
    found = _measured(size, step, device.peak["bf16"])
    tell(found)
    found |= _compared(*told(), held, step)
    found["line"] += f"; predicted off by {found['error']['seconds']:+.0%} and {found['error']['peak']:+.1%}"
    if any(abs(found["error"][name]) > bound for name, bound in NAMED.items()):
        clear()
        tell(found)
        found["profile"] = profiled(place, forward)
    return found


Told = Callable[[], tuple[Plan, Decision]]


def _compiled(
    model: torch.nn.Module, inputs: dict, size: dict[str, Any], mesh: DeviceMesh, device: Device
) -> tuple[Callable[[], torch.Tensor], Told]:
    """As `autosp.compile` has it; under PyTorch's own choice where DeepSpeed tells PyTorch what to recompute."""
    peer = size["setting"] == "deepspeed"
    if peer:
        deepspeeds_recomputation()
    autosp.compile(
        model, SPEC, mesh=mesh, device=device, backend=size["backend"], grad_reduce="engine",
        recompute="none" if peer else size["setting"],
    )  # fmt: skip

    def told() -> tuple[Plan, Decision]:
        plan, _, decision = predicted(model)
        return plan, decision

    return lambda: model(**inputs).loss, told


def _checkpointed(
    model: torch.nn.Module, inputs: dict, size: dict[str, Any], mesh: DeviceMesh, device: Device
) -> tuple[Callable[[], torch.Tensor], Told]:
    """The same graph as each layer under `torch.utils.checkpoint` would run it (of which a capture keeps nothing)."""
    group = mesh.get_group("sp").group_name
    made = program(model, inputs, SPEC, device, size["backend"], sp=size["ranks"], group=group)
    decision = made.layers()
    return made.compiled(decision.choice), lambda: (made.plan, decision)


def _measured(size: dict[str, Any], step: Step, peak_flops: float) -> dict[str, Any]:
    work = model_flops(size["model"], size["length"], size["ranks"])
    reserved = f", reserved {step.reserved / GiB:.2f}" if step.reserved else ""
    mfu = work / step.seconds / peak_flops
    return {
        "line": f"{step.seconds:.3f} s, peak {step.peak / GiB:.3f} GiB{reserved}, MFU {mfu:.1%}",
        "length": size["length"], "setting": size["setting"], "seconds": step.seconds, "each": step.all_seconds,
        "peak": step.peak, "forward_peak": step.forward_peak, "between": step.between, "reserved": step.reserved,
        "loss": step.loss, "model_flops": work, "mfu": mfu,
    }  # fmt: skip


def _compared(plan: Plan, decision: Decision, parameters: int, step: Step) -> dict[str, Any]:
    """Predicted beside measured. The program's own: no optimizer runs, and nothing is sent."""
    peak, seconds = parameters + decision.peak, plan.compute_seconds + decision.seconds
    error = {"peak": peak / step.peak - 1, "seconds": seconds / step.seconds - 1}
    return {
        "predicted": {
            "peak": peak, "parameters": parameters, "saved": decision.saved, "held": decision.held,
            "transient": decision.transient, "gradients": decision.gradients, "phase": decision.phase,
            "at": decision.at, "seconds": seconds, "again": decision.seconds, "decided": decision.text,
            "collectives": plan.communication_seconds, "kinds": _kinds(plan),
        },
        "error": error,
    }  # fmt: skip


def _kinds(plan: Plan) -> dict[str, float]:
    """Predicted seconds, forward and backward, of what the profiler's kernels are grouped by."""
    found = {"attention": 0.0, "matmul": 0.0, "fused": 0.0}
    for op, way in plan.chosen.items():
        heavy = flops(op, plan.problem) > 0
        kind = "attention" if "attention" in str(op.node.target) else "matmul" if heavy else "fused"
        found[kind] += operator_seconds(op, plan.problem, plan.device, next(iter(way.needs), None)) * way.share
    return found
