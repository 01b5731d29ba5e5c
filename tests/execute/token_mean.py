"""What one rank runs: a loss that is one token mean over all data-parallel batches."""

from __future__ import annotations

import attrs
import torch
import torch.distributed as dist

from tests.execute.case import IGNORED, VOCAB, Case, build_model, build_optimizer
from tests.execute.programs import deepspeed_config
from tests.execute.reference import Difference, compare, snapshot

STEPS = 2
CASE = Case(dp=2, sp=2, path="zero1", kv_heads=4)
SPEC = """\
mesh [dp: local, sp]
input input_ids [batch@dp, seq@sp]
input labels [batch@dp, seq@sp]
output loss []
output logits none
reduce loss mean over [dp, sp]
"""


@attrs.frozen
class Seen:
    losses: tuple[float, ...]
    difference: Difference


def batch(step: int, dp_rank: int) -> dict[str, torch.Tensor]:
    """The second data-parallel rank holds a quarter of the first one's valid tokens."""
    generator = torch.Generator().manual_seed(7 + step)
    ids = torch.randint(VOCAB, (2, 24), generator=generator)[dp_rank][None]
    labels = ids.clone()
    labels[:, : 18 * dp_rank] = IGNORED
    return {"input_ids": ids, "labels": labels}


def unsharded() -> tuple[tuple[float, ...], dict[str, torch.Tensor]]:
    """Eager PyTorch on both batches at once: its own mean is the token mean."""
    model = build_model(CASE)
    optimizer = build_optimizer(CASE, model)
    losses = []
    for step in range(STEPS):
        parts = [batch(step, r) for r in range(CASE.dp)]
        loss = model(**{name: torch.cat([p[name] for p in parts]) for name in parts[0]}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return tuple(losses), snapshot(model)


def sharded(item: tuple[str, dict[str, torch.Tensor]]) -> Seen:
    path, expected = item
    losses, model = _plain() if path == "plain" else _engine()
    return Seen(tuple(losses), compare(expected, snapshot(model)))


def _plain():
    import autosp

    mesh = dist.init_device_mesh("cpu", (CASE.dp, CASE.sp), mesh_dim_names=("dp", "sp"))
    model = build_model(CASE)
    optimizer = build_optimizer(CASE, model)
    autosp.compile(model, SPEC, mesh=mesh, backend="aot_eager")
    losses = []
    for step in range(STEPS):
        loss = model(**batch(step, mesh.get_local_rank("dp"))).loss
        optimizer.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad, group=mesh.get_group("dp"))
            parameter.grad /= CASE.dp
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, model


def _engine():
    import deepspeed

    import autosp

    model = build_model(CASE)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=build_optimizer(CASE, model), config=deepspeed_config(CASE)
    )
    autosp.compile(engine, SPEC, backend="aot_eager")
    losses = []
    for step in range(STEPS):
        loss = engine(**batch(step, dist.get_rank() // CASE.sp)).loss
        engine.backward(loss)
        engine.step()
        losses.append(float(loss.detach()))
    engine.destroy()
    return losses, engine.module
