"""What a run keeps between steps, on the ranks of a launch: checkpoints, and the streams of random numbers."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from autosp.engine import compile
from autosp.engine.deepspeed import initialize
from autosp.parity.sharded import deepspeed_config
from autosp.parity.trial import Trained, Trial, batches, build, loss_of, make_optimizer, snapshot
from autosp.spec import load

MODEL = "tests.execute.families:LlamaForCausalLM"
BEFORE, AFTER = 2, 2  # steps
SEEDS = 200
DROPPED_SPEC = """
mesh    [dp: local, sp]
input   idx      [batch@dp, seq@sp]
input   targets  [batch@dp, seq@sp]
"""


def trial_of(sp: int) -> Trial:
    return Trial(MODEL, sp=sp, zero=1, optimizer="adam", labels="unequal", steps=BEFORE + AFTER)


def _engine(trial: Trial, universal: bool = False):
    model, _ = build(trial)
    config = deepspeed_config(trial) | {"checkpoint": {"load_universal": universal}}
    engine = initialize(model, make_optimizer(trial, model), config)
    return compile(engine, "llama", backend=trial.backend)


def _train(trial: Trial, engine, steps: range) -> tuple[float, ...]:
    batch, losses = batches(trial_of(2), load("llama"), engine.module, None), []  # as the run that was saved
    for step in steps:
        loss = loss_of(engine(**batch(step, 0, 0)))
        engine.backward(loss)
        engine.step()
        losses.append(float(loss.detach()))
    return tuple(losses)


def save_and_go_on(folder: str) -> tuple[Trained, Trained]:
    """Trains, saves half-way and goes on; then again from the checkpoint, with a new engine."""
    trial = trial_of(dist.get_world_size())
    first = _engine(trial)
    _train(trial, first, range(BEFORE))
    first.save_checkpoint(folder, tag="half")
    through = Trained(_train(trial, first, range(BEFORE, BEFORE + AFTER)), snapshot(first.module))
    first.destroy()
    second = _engine(trial)
    second.load_checkpoint(folder, tag="half")
    resumed = Trained(_train(trial, second, range(BEFORE, BEFORE + AFTER)), snapshot(second.module))
    second.destroy()
    return through, resumed


def resume_universal(folder: str) -> Trained:
    """From a universal checkpoint, on this number of ranks."""
    trial = trial_of(dist.get_world_size())
    engine = _engine(trial, universal=True)
    engine.load_checkpoint(folder, tag=Path(folder, "latest_universal").read_text().strip())
    trained = Trained(_train(trial, engine, range(BEFORE, BEFORE + AFTER)), snapshot(engine.module))
    engine.destroy()
    return trained


class Dropped(nn.Module):
    """Drops tokens' features, which are split, and a bias, which every rank has whole."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head = nn.Embedding(32, 8), nn.Linear(8, 32)
        self.bias = nn.Parameter(torch.ones(8))

    def forward(self, idx, targets):
        x = self.embed(idx)
        kept, bias = F.dropout(torch.ones_like(x)), F.dropout(self.bias)
        loss = F.cross_entropy(self.head(x * kept + bias).flatten(0, 1), targets.flatten())
        return loss, kept, bias


def ids() -> torch.Tensor:
    return torch.randint(32, (2, 16), generator=torch.Generator().manual_seed(1))


def over_seeds(model: nn.Module, call) -> dict[str, torch.Tensor]:
    """Losses, gradients of the bias, and what was kept, by seed."""
    losses, gradients, kept, biases = [], [], [], []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model.zero_grad()
        loss, one, bias = call(idx=ids(), targets=ids())
        loss.backward()
        losses.append(loss.detach())
        gradients.append(model.bias.grad.clone())
        kept.append(one.detach() != 0)
        biases.append(bias.detach() != 0)
    return {name: torch.stack(each) for name, each in
            {"losses": losses, "gradients": gradients, "kept": kept, "biases": biases}.items()}  # fmt: skip


def dropout(_: object) -> dict[str, torch.Tensor]:
    mesh = dist.init_device_mesh("cpu", (1, dist.get_world_size()), mesh_dim_names=("dp", "sp"))
    model = compile(Dropped(), DROPPED_SPEC, mesh=mesh, backend="aot_eager")
    return over_seeds(model, model)
