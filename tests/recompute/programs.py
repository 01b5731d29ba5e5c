"""Small programs for tiling, and how one is run whole, in tiles, and as graphs of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import fx, nn

from autosp.lower import Rank, lower
from autosp.parity import run_ranks
from autosp.passes import global_graph
from autosp.sharding import MeshAxis
from autosp.solve import Plan, load_device, solve
from tests.lower.models import ends, layout_of

WIDTH, VOCAB = 8, 96


class Head(nn.Module):
    """An embedding, one layer's worth of mixing, a head, and `loss(logits, labels, model)`."""

    def __init__(self, loss: Callable, bias: bool = False, vocab: int = VOCAB):
        super().__init__()
        self.embed = nn.Embedding(vocab, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, vocab, bias=bias)
        self.register_buffer("weights", torch.linspace(0.5, 1.5, vocab))
        self.loss = loss

    def forward(self, input_ids, labels):
        return self.loss(self.head(self.norm(self.embed(input_ids))), labels, self)


def shifted(labels: torch.Tensor) -> torch.Tensor:
    """Labels moved by one token, as Hugging Face does it."""
    return F.pad(labels, (0, 1), value=-100)[:, 1:].reshape(-1)


def flat(logits: torch.Tensor) -> torch.Tensor:
    return logits.float().view(-1, logits.shape[-1])


def huggingface(logits, labels, model):
    return F.cross_entropy(flat(logits), shifted(labels), ignore_index=-100)


def nanogpt(logits, labels, model):
    logits, labels = logits[:, :-1].contiguous(), labels[:, 1:].contiguous()
    return F.cross_entropy(logits.view(-1, logits.size(-1)), labels.view(-1), ignore_index=-100)


def nanogpt_cap(logits, labels, model):
    return nanogpt(5.0 * torch.tanh(logits.float() / 5.0), labels, model)


def soft_cap(logits, labels, model):
    return huggingface(5.0 * torch.tanh(logits / 5.0), labels, model)


def smoothed(logits, labels, model):
    return F.cross_entropy(flat(logits), shifted(labels), label_smoothing=0.1, weight=model.weights)


def z_loss(logits, labels, model):
    lse = torch.logsumexp(flat(logits), -1)
    return huggingface(logits, labels, model) + 1e-2 * lse.square().mean()


def picked(logits, labels, model):
    """`log_softmax` and `gather`, padding masked by hand."""
    target = F.pad(labels, (0, 1), value=-100)[:, 1:]
    valid = target != -100
    logp = torch.log_softmax(logits.float(), -1).gather(-1, target.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -(logp * valid).sum() / valid.sum()


def nll(logits, labels, model):
    return F.nll_loss(torch.log_softmax(flat(logits), -1), shifted(labels), ignore_index=-100)


def by_hand(logits, labels, model):
    """A softmax written out: the largest logit is read again by every logit."""
    x = flat(logits)
    x = x - x.amax(-1, keepdim=True).detach()
    target = shifted(labels)
    logp = x - x.exp().sum(-1, keepdim=True).log()
    return -(logp * F.one_hot(target.clamp(min=0), x.shape[-1]) * (target != -100)[:, None]).mean()


def padded_vocab(logits, labels, model):
    return huggingface(logits[..., :-6], labels, model)


LOSSES = {
    f.__name__: f
    for f in (
        huggingface,
        nanogpt,
        nanogpt_cap,
        soft_cap,
        smoothed,
        z_loss,
        picked,
        nll,
        by_hand,
        padded_vocab,
    )
}


class Gated(nn.Module):
    """Llama's MLP in a residual block."""

    def __init__(self, width: int = WIDTH, wide: int = 40):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate, self.up = (nn.Linear(width, wide, bias=False) for _ in range(2))
        self.down = nn.Linear(wide, width, bias=False)

    def forward(self, x, y):
        z = self.norm(x)
        return (x + self.down(F.silu(self.gate(z)) * self.up(z)) - y).square().mean()


class Conv1D(nn.Module):
    """GPT-2's product: a bias and a weight that is not transposed."""

    def __init__(self, into: int, out: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(into, out) / 4), nn.Parameter(torch.randn(out) / 4)

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Gelu(nn.Module):
    """GPT-2's MLP in a residual block."""

    def __init__(self, width: int = WIDTH, wide: int = 40, dropout: float = 0.0, inner: bool = False):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc, self.proj = Conv1D(width, wide), Conv1D(wide, width)
        self.dropout, self.inner = dropout, inner

    def forward(self, x, y):
        z = self.fc(self.norm(x))
        z = 0.5 * z * (1.0 + torch.tanh(0.79788456 * (z + 0.044715 * torch.pow(z, 3.0))))
        z = F.dropout(z, self.dropout) if self.inner else z
        return (x + F.dropout(self.proj(z), self.dropout) - y).square().mean()


def tokens(batch: int, length: int, labels: str = "padded", vocab: int = VOCAB) -> dict[str, torch.Tensor]:
    """A batch for a head. labels: full, padded (the last third and the first row's start), none."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(vocab - 6, (batch, length), generator=generator)
    found = {"input_ids": ids, "labels": ids.clone()}
    if labels == "padded":
        found["labels"][:, -(length // 3) :] = -100
        found["labels"][0, : length // 2] = -100
    if labels == "none":
        found["labels"][:] = -100
    return found


def rows(batch: int, length: int, width: int = WIDTH) -> dict[str, torch.Tensor]:
    x, y = torch.randn(2, batch, length, width, generator=torch.Generator().manual_seed(1))
    return {"x": x, "y": y}


def planned(make: Callable[[], nn.Module], inputs: dict, p: int = 1, dynamic: bool = False) -> tuple[Plan, tuple]:
    """The plan of a program, and the inputs of its graph."""
    torch.manual_seed(0)
    captured, given = global_graph(make().train(), inputs, layout_of=layout_of, dynamic=dynamic)
    return solve(captured, ends(captured), axis=MeshAxis("sp", p), device=load_device("a100-80gb")), given


def local(plan: Plan, rank: int = 0, group: str = "sim:none") -> fx.GraphModule:
    return lower(plan, Rank(rank, group))


def own(x):
    """A copy of an input; the example's number for a symbol."""
    if isinstance(x, torch.Tensor):
        return x.detach().clone().requires_grad_(x.requires_grad)
    return x.node.hint if isinstance(x, torch.SymInt) else x


def run(gm: Callable, inputs: tuple) -> list[torch.Tensor | None]:
    """The loss, then the gradient of every input."""
    given = [own(x) for x in inputs]
    loss = gm(*given)[0]
    if loss.requires_grad:
        loss.backward()
    return [loss.detach(), *(x.grad if isinstance(x, torch.Tensor) else None for x in given)]


def run_all(plan: Plan, inputs: tuple, change: Callable = lambda gm: gm) -> list[list]:
    """Every rank's loss and gradients, its graph changed by `change`."""
    return run_ranks(plan.p, lambda rank, group: run(change(local(plan, rank, group.name)), inputs))


def through(compiler: str, gm: fx.GraphModule, inputs: tuple) -> Callable:
    """The graph as it is, or compiled by a backend of Dynamo's."""
    if compiler == "eager":
        return gm
    return torch._dynamo.lookup_backend(compiler)(gm, [own(x) for x in inputs])


def misses(found: list, expected: list, relative: float = 1e-6) -> list[str]:
    """Where two runs differ by more than `relative` of the largest value."""
    bad = []
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        if (a is None) != (b is None):
            bad.append(f"value {i}: only one has it")
        elif b is not None and not torch.allclose(
            a, b, rtol=0, atol=relative * float(b.nan_to_num().abs().max()), equal_nan=True
        ):
            bad.append(f"value {i}: {float((a - b).abs().max()):.2e} of {float(b.abs().max()):.2e}")
    return bad
