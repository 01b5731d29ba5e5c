"""The model's states against hand-computed bytes, and against tensors that PyTorch's optimizers really keep."""

import pytest
import torch
from torch import nn

from autosp.errors import PlanError
from autosp.recompute.state import BUCKET, state_of

GB = 10**9


def parameters(count: int, trained: bool = True) -> list[nn.Parameter]:
    return [nn.Parameter(torch.empty(count, device="meta", dtype=torch.bfloat16), requires_grad=trained)]


# Figure 1 of the ZeRO paper: 7.5 billion parameters, 64 ranks, Adam in mixed precision, in GB.
FIGURE_1 = {0: (15, 15, 90), 1: (15, 15, 90 / 64), 2: (15, 15 / 64, 90 / 64)}


@pytest.mark.parametrize("zero", FIGURE_1)
def test_the_figures_of_the_paper(zero):
    state = state_of(parameters(7_500_000_000), zero=zero, ranks=64)
    assert (state.parameters / GB, state.gradients / GB, state.optimizer / GB) == FIGURE_1[zero]
    assert round(state.total / GB, 1) == {0: 120.0, 1: 31.4, 2: 16.6}[zero]


def test_stage_3_holds_a_share_and_what_is_gathered():
    state = state_of(parameters(7_500_000_000), zero=3, ranks=64)
    gathered = 10**9 * 2
    assert state.total - gathered == 16 * 7_500_000_000 // 64  # 1.9 GB in the paper
    assert any("gathers up to 1,000,000,000 elements" in each for each in state.assumptions)


# bytes per element of optimizer state: the master copy (in low precision, and in ZeRO's partitions) and the moments
KEPT = {
    ("adamw", torch.bfloat16, 0): 12, ("momentum", torch.float16, 0): 8, ("sgd", torch.bfloat16, 0): 4,
    ("adamw", torch.float32, 0): 8, ("momentum", torch.float32, 0): 4, ("sgd", torch.float32, 0): 0,
    ("adamw", torch.float32, 1): 12, ("lion", torch.bfloat16, 1): 8,
}  # fmt: skip


@pytest.mark.parametrize("optimizer, dtype, zero", KEPT)
def test_an_optimizer_keeps_so_many_bytes(optimizer, dtype, zero):
    state = state_of(parameters(1000), dtype=dtype, optimizer=optimizer, zero=zero, ranks=8)
    assert state.optimizer == KEPT[optimizer, dtype, zero] * (125 if zero else 1000)
    assert state.parameters == state.gradients == 1000 * dtype.itemsize


def test_a_frozen_parameter_is_held_and_no_more():
    state = state_of([*parameters(1000), *parameters(500, trained=False)], zero=3, ranks=8)
    assert (state.gradients, state.optimizer) == (125 * 2, 125 * 12)
    assert state.parameters == 125 * 2 + 500 * 2 + 1000 * 2  # the own share, the frozen ones, what is gathered


def test_a_buffer_keeps_its_dtype():
    assert state_of([torch.empty(10, dtype=torch.float64)], zero=0).parameters == 80


def test_tied_parameters_count_once():
    assert state_of(parameters(1000) * 2, zero=0) == state_of(parameters(1000), zero=0)


def test_ranks_that_do_not_divide_hold_the_larger_part():
    assert state_of(parameters(1001), ranks=8).optimizer == 126 * 12


def test_what_the_engine_allocates_after_the_backward():
    assert state_of(parameters(1000), zero=0).working == 4000  # gradients in fp32, for the step
    assert state_of(parameters(1000), zero=0, dtype=torch.float32).working == 0
    assert state_of(parameters(1000), ranks=8).working == BUCKET * 2 + 125 * 2
    assert state_of(parameters(10**10), ranks=8).working == 8 * 10**10 // 8


class Tied(nn.Module):
    """Two weights that are one, a frozen one, and a buffer."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(32, 16), nn.Linear(16, 32, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.LayerNorm(16)
        self.norm.bias.requires_grad_(False)
        self.register_buffer("scale", torch.ones(16))

    def forward(self, x):
        return self.head(self.norm(self.embed(x)) * self.scale)


OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
}


def stored(tensors) -> int:
    """Bytes of the storages of tensors, each once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_real_step_in_fp32_keeps_these_bytes(optimizer):
    model = Tied()
    step = OPTIMIZERS[optimizer]([p for p in model.parameters() if p.requires_grad])
    model(torch.arange(8)).sum().backward()
    step.step()
    state = state_of([*model.parameters(), *model.buffers()], dtype=torch.float32, optimizer=optimizer, zero=0)
    assert state.parameters == stored([*model.parameters(), *model.buffers()])
    assert state.gradients == stored(p.grad for p in model.parameters() if p.grad is not None)
    moments = [x for each in step.state.values() for x in each.values() if isinstance(x, torch.Tensor) and x.dim()]
    assert state.optimizer == stored(moments)


def test_a_real_step_on_master_weights_keeps_these_bytes():
    model = Tied()
    masters = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    model.to(torch.bfloat16).scale = torch.ones(16, dtype=torch.bfloat16)
    model(torch.arange(8)).sum().backward()
    step = torch.optim.AdamW(masters)
    for master, p in zip(masters, (p for p in model.parameters() if p.requires_grad), strict=True):
        master.grad = p.grad.float()
    step.step()
    moments = [x for each in step.state.values() for x in each.values() if isinstance(x, torch.Tensor) and x.dim()]
    state = state_of([*model.parameters(), *model.buffers()], zero=0)
    assert state.parameters == stored([*model.parameters(), *model.buffers()])
    assert state.gradients == stored(p.grad for p in model.parameters() if p.grad is not None)
    assert state.optimizer == stored([*masters, *moments])
    assert state.working == stored(m.grad for m in masters)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(PlanError) as caught:
        state_of([], dtype=torch.float64, optimizer="adamx", zero=4)
    assert str(caught.value) == TEXT


TEXT = """error: dtype torch.float64 is not one that a model is trained in
  --> autosp.plan(dtype=...)
   = rule: dtype is torch.bfloat16, torch.float16 or torch.float32
   = fix: use torch.bfloat16

error: no optimizer 'adamx'
  --> autosp.plan(optimizer=...)
   = rule: the state of an optimizer is known for adamw, adam, lion, adagrad, momentum, sgd
   = fix: did you mean 'adam'?

error: no ZeRO stage 4
  --> autosp.plan(zero=...)
   = rule: ZeRO has stages 0, 1, 2 and 3
   = fix: use zero=1"""


def test_the_assumptions_are_sentences():
    assert state_of(parameters(10**9), ranks=8).assumptions == (
        "1,000,000,000 trained elements in bf16, ZeRO-1 over 8 ranks (dp x sp)",
        "gradients are in bf16, and there as the backward makes them: one micro-batch a step (accumulation holds "
        "those of all parameters besides)",
        "optimizer adamw keeps an fp32 master copy and 2 fp32 moments for each trained element",
        "1.2 GiB of the engine's own (reduce bucket, copies for the optimizer's step) are allocated when the "
        "activations are freed: they count where they are more than those",
    )
