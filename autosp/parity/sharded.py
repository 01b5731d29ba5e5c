"""A trial's sharded run: on one rank of a real process group, or all ranks simulated in this process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch
import torch.distributed as dist

from ..capture import Captured
from ..engine import compile
from ..engine.deepspeed import initialize
from ..engine.traced import Planner
from ..errors import AutospError
from ..solve import Plan
from ..spec import Spec
from .simulation import Simulation
from .trial import Batch, Trained, Trial, batches, build, loss_of, make_optimizer, precision, run, snapshot


@attrs.frozen
class Refusal:
    """The error of autosp that a run ended with, and its first line."""

    text: str
    what: str


def on_rank(item: tuple[Trial, Spec]) -> Trained | Refusal:
    """What this rank makes of a trial. The process group is there."""
    trial, spec = item
    try:
        return _plain(trial, spec) if trial.zero is None else _deepspeed(trial, spec)
    except AutospError as error:
        return Refusal(str(error), error.problems[0].what)


def _plain(trial: Trial, spec: Spec) -> Trained:
    mesh = dist.init_device_mesh(trial.device, (trial.dp, trial.sp), mesh_dim_names=("dp", "sp"))
    model, own_inputs = build(trial)
    compiled = compile(
        model, spec, mesh=mesh, backend=trial.backend, dynamic=trial.dynamic or None, recompute=trial.recompute
    )

    def mean_over_dp() -> None:  # what DDP would do
        if trial.dp > 1:
            for grad in (p.grad for p in model.parameters() if p.grad is not None):
                dist.all_reduce(grad, group=mesh.get_group("dp"))
                grad /= trial.dp

    rank = mesh.get_local_rank("dp")
    return run(trial, model, batches(trial, spec, model, own_inputs), [rank], call=compiled, finish=mean_over_dp)


def _deepspeed(trial: Trial, spec: Spec) -> Trained:
    model, own_inputs = build(trial)
    batch = batches(trial, spec, model, own_inputs)
    engine: Any = initialize(model, make_optimizer(trial, model), deepspeed_config(trial))
    compile(engine, spec, backend=trial.backend, dynamic=trial.dynamic or None, recompute=trial.recompute)
    losses = []
    for step in range(trial.steps):
        for micro in range(trial.accumulate):
            with precision(trial):
                loss = loss_of(engine(**batch(step, micro, dist.get_rank() // trial.sp)))
            engine.backward(loss)
            engine.step()
            losses.append(float(loss.detach()))
    engine.destroy()
    return Trained(tuple(losses), snapshot(engine.module))


def deepspeed_config(trial: Trial) -> dict:
    """The configuration of a DeepSpeed user."""
    return {
        "train_micro_batch_size_per_gpu": trial.batch,
        "gradient_accumulation_steps": trial.accumulate,
        "gradient_clipping": trial.clip,
        "zero_optimization": {"stage": trial.zero},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": trial.precision == "bf16"},
        "steps_per_print": 10**9,
        "compile": {"deepcompile": True, "passes": ["autosp"]},
        "sequence_parallel_size": trial.sp,
    }


@attrs.frozen
class _Program:
    """One shape of the inputs on one number of ranks: the plan's local graphs, and what stands behind it."""

    plan: Plan
    captured: Captured
    examples: Sequence
    ranks: Simulation


class Simulator:
    """Simulated runs, which share what does not tell them apart.

    A trace is for one model and one shape of the inputs, as Dynamo would keep it; a plan and its local graphs are for
    a trace and a number of ranks. The model's weights are set back before each run.
    """

    def __init__(self) -> None:
        self._models: dict[tuple, tuple] = {}
        self._planners: dict[tuple, Planner] = {}
        self._programs: dict[tuple, _Program] = {}

    def run(self, trial: Trial, spec: Spec) -> Trained | Refusal:
        """All ranks of the split axis as threads of this process; the data-parallel ones in turn.

        Every rank's loss and gradients are compared with the first's, to the bit.
        """
        try:
            model, own_inputs = self._fresh(trial)

            def backward(batch: Batch, share: float) -> float:
                return _backward(self._program(trial, spec, model, batch), batch, share)

            return run(trial, model, batches(trial, spec, model, own_inputs), range(trial.dp), backward=backward)
        except AutospError as error:
            return Refusal(str(error), error.problems[0].what)

    def _fresh(self, trial: Trial) -> tuple[torch.nn.Module, Batch | None]:
        key = _model_key(trial)
        if key not in self._models:
            model, own_inputs = build(trial)
            self._models[key] = model, own_inputs, {n: x.detach().clone() for n, x in _tensors(model)}
        model, own_inputs, weights = self._models[key]
        with torch.no_grad():
            for name, x in _tensors(model):
                x.copy_(weights[name])
                x.grad = None
        return model, own_inputs

    def _program(self, trial: Trial, spec: Spec, model: torch.nn.Module, batch: Batch) -> _Program:
        shapes = tuple((n, tuple(x.shape), x.dtype) for n, x in batch.items() if isinstance(x, torch.Tensor))
        key = _model_key(trial), str(spec), shapes
        if (key, trial.sp) not in self._programs:
            with precision(trial):
                if key not in self._planners:
                    self._planners[key] = Planner(model, batch, spec)
                plan, captured, examples = self._planners[key].planned(trial.sp)
            self._programs[key, trial.sp] = _Program(
                plan, captured, examples, Simulation(plan, tiles=spec.tile, checked=True)
            )
        return self._programs[key, trial.sp]


def _model_key(trial: Trial) -> tuple:
    return trial.model, trial.attn, trial.precision, trial.device


def _tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return itertools.chain(model.named_parameters(), model.named_buffers())


def _backward(program: _Program, batch: Batch, share: float) -> float:
    """The loss, and `share` of its gradients added to the parameters'."""
    inputs = [
        batch.get(p.name, x) if p.role == "input" else x
        for p, x in zip(program.captured.placeholders, program.examples, strict=True)
    ]
    ranks = program.ranks.run(inputs)
    at, (first, gradients) = program.ranks.loss, ranks[0]
    for rank, (outputs, others) in enumerate(ranks):
        same = torch.equal(outputs[at].nan_to_num(), first[at].nan_to_num())
        same &= all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(gradients, others, strict=True)
                    if a is not None)  # fmt: skip
        assert same, f"rank {rank} differs from rank 0"
    for x, gradient in zip(program.examples, gradients, strict=True):
        if isinstance(x, torch.nn.Parameter) and gradient is not None:
            x.grad = gradient * share if x.grad is None else x.grad + gradient * share
    return float(first[at].detach())
