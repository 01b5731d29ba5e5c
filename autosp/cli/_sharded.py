"""A trial's sharded run: on one rank of a real process group, or all ranks simulated in this process."""

from __future__ import annotations

import attrs
import torch
import torch.distributed as dist

from ..errors import AutospError
from ..spec import Spec
from ._trial import Batch, Trained, Trial, batches, build, loss_of, make_optimizer, precision, run, snapshot


@attrs.frozen
class Refused:
    """The error of autosp that a run ended with, and its first line."""

    text: str
    what: str


def on_rank(item: tuple[Trial, Spec]) -> Trained | Refused:
    """What this rank makes of a trial. The process group is there."""
    trial, spec = item
    try:
        return _plain(trial, spec) if trial.zero is None else _deepspeed(trial, spec)
    except AutospError as error:
        return Refused(str(error), error.problems[0].what)


def _plain(trial: Trial, spec: Spec) -> Trained:
    from ..engine import compile

    mesh = dist.init_device_mesh("cpu", (trial.dp, trial.sp), mesh_dim_names=("dp", "sp"))
    model, given = build(trial)
    compiled = compile(
        model, spec, mesh=mesh, backend=trial.backend, dynamic=trial.dynamic or None, recompute=trial.recompute
    )

    def mean_over_dp() -> None:  # what DDP would do
        if trial.dp > 1:
            for parameter in (p for p in model.parameters() if p.grad is not None):
                dist.all_reduce(parameter.grad, group=mesh.get_group("dp"))
                parameter.grad /= trial.dp

    rank = mesh.get_local_rank("dp")
    return run(trial, model, batches(trial, spec, model, given), [rank], call=compiled, finish=mean_over_dp)


def _deepspeed(trial: Trial, spec: Spec) -> Trained:
    from ..engine import compile
    from ..engine.deepspeed import initialize

    model, given = build(trial)
    batch = batches(trial, spec, model, given)
    engine = initialize(model, make_optimizer(trial, model), deepspeed_config(trial))
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


def simulated(trial: Trial, spec: Spec) -> Trained | Refused:
    """All ranks of the split axis as threads of this process; the data-parallel ones in turn.

    Every rank's loss and gradients are compared with the first's, to the bit.
    """
    try:
        model, given = build(trial)
        program = _Simulated(trial, spec, model)
        return run(trial, model, batches(trial, spec, model, given), range(trial.dp), backward=program.backward)
    except AutospError as error:
        return Refused(str(error), error.problems[0].what)


class _Simulated:
    """One plan for each shape of the inputs, as Dynamo would keep them."""

    def __init__(self, trial: Trial, spec: Spec, model: torch.nn.Module):
        self.trial, self.spec, self.model, self.plans = trial, spec, model, {}

    def backward(self, batch: Batch, share: float) -> float:
        from ..lower import simulate

        plan, captured, examples = self._planned(batch)
        inputs = [
            batch.get(p.name, x) if p.role == "input" else x
            for p, x in zip(captured.placeholders, examples, strict=True)
        ]
        ranks = simulate(plan, inputs)
        first, gradients = ranks[0]
        for rank, (outputs, others) in enumerate(ranks):
            same = torch.equal(outputs[0].nan_to_num(), first[0].nan_to_num())
            same &= all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(gradients, others, strict=True)
                        if a is not None)  # fmt: skip
            assert same, f"rank {rank} differs from rank 0"
        for x, gradient in zip(examples, gradients, strict=True):
            if isinstance(x, torch.nn.Parameter) and gradient is not None:
                x.grad = gradient * share if x.grad is None else x.grad + gradient * share
        return float(first[0].detach())

    def _planned(self, batch: Batch):
        from ..engine.planning import planned

        key = tuple((name, tuple(x.shape)) for name, x in batch.items() if isinstance(x, torch.Tensor))
        if key not in self.plans:
            with precision(self.trial):
                self.plans[key] = planned(self.model, batch, self.spec, sp=self.trial.sp)
        return self.plans[key]
