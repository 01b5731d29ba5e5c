"""What one rank runs for a case: the sharded training, by each of the paths that a user may take."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
import torch.distributed as dist

from tests.execute.case import STEPS, Case, build_batch, build_model, build_optimizer
from tests.execute.reference import Difference, Reference, compare, snapshot


@attrs.frozen
class Result:
    """What a rank saw: its losses by micro step, and its parameters against the reference."""

    losses: tuple[float, ...]
    difference: Difference


def sharded(item: tuple[Case, Reference]) -> Result:
    """Trains a case with autosp, by its path."""
    case, expected = item
    losses, model = _plain(case) if case.path == "plain" else _deepspeed(case, _compile_with_autosp)
    return Result(losses, compare(expected.parameters, snapshot(model)))


def deepspeeds_own_pass(item: tuple[Case, Reference]) -> Result:
    """Trains a case with the `autosp` pass that DeepSpeed ships."""
    case, expected = item
    losses, model = _deepspeed(case, _compile_with_deepspeed, _mark_for_deepspeed)
    return Result(losses, compare(expected.parameters, snapshot(model)))


def _plain(case: Case) -> tuple[tuple[float, ...], torch.nn.Module]:
    import autosp

    mesh = dist.init_device_mesh("cpu", (case.dp, case.sp), mesh_dim_names=("dp", "sp"))
    model = build_model(case)
    optimizer = build_optimizer(case, model)
    compiled = autosp.compile(model, case.spec, mesh=mesh, backend=case.backend, dynamic=case.dynamic or None)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        for micro in range(case.accumulate):
            loss = compiled(**build_batch(case, step, micro, mesh.get_local_rank("dp"))).loss
            (loss / case.accumulate).backward()
            losses.append(float(loss.detach()))
        _mean_over_dp(model, mesh)
        if case.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), case.clip)
        optimizer.step()
    return tuple(losses), model


def _mean_over_dp(model: torch.nn.Module, mesh: dist.device_mesh.DeviceMesh) -> None:
    """What DDP would do."""
    if mesh.size(0) == 1:
        return
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad, group=mesh.get_group("dp"))
        parameter.grad /= mesh.size(0)


def _deepspeed(
    case: Case, compile: Callable[[Case, object], None], mark: Callable[[dict], dict] = lambda batch: batch
) -> tuple[tuple[float, ...], torch.nn.Module]:
    import deepspeed

    model = build_model(case)
    optimizer = build_optimizer(case, model)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=deepspeed_config(case))
    compile(case, engine)
    losses = []
    for step in range(STEPS):
        for micro in range(case.accumulate):
            loss = engine(**mark(build_batch(case, step, micro, dist.get_rank() // case.sp))).loss
            engine.backward(loss)
            engine.step()
            losses.append(float(loss.detach()))
    engine.destroy()
    return tuple(losses), engine.module


def deepspeed_config(case: Case) -> dict:
    """The configuration of a DeepSpeed user of the case."""
    return {
        "train_micro_batch_size_per_gpu": case.batch,
        "gradient_accumulation_steps": case.accumulate,
        "gradient_clipping": case.clip,
        "zero_optimization": {"stage": int(case.path.removeprefix("zero"))},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "compile": {"deepcompile": True, "passes": ["autosp"]},
        "sequence_parallel_size": case.sp,
        **({"data_parallel_size": case.dp} if case.mesh_in_config else {}),
    }


def _compile_with_autosp(case: Case, engine) -> None:
    import autosp

    autosp.compile(engine, case.spec, backend=case.backend, dynamic=case.dynamic or None)


def _compile_with_deepspeed(case: Case, engine) -> None:
    engine.compile(backend="inductor")


def _mark_for_deepspeed(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    from deepspeed.compile.passes.sp_compile import prepare_autosp_inputs

    prepare_autosp_inputs(batch["input_ids"], batch["labels"], batch.get("position_ids"), batch.get("attention_mask"))
    return batch
