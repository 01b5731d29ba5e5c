"""Models that keep something for the next step: buffers that are written, attributes that are assigned."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

import autosp
from tests.execute.families import FAMILIES
from tests.execute.odd import SPEC, Mixing

__all__ = ["SPEC"]


class Keeping(Mixing):
    """A counter, a table that follows the length, a mean of activations over all positions; what is kept counts."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("table", torch.ones(16))
        self.register_buffer("mean", torch.zeros(16))
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("range", torch.zeros(()))
        self.last, self.sums = torch.zeros(()), []

    def mix(self, x):
        self.range.data.copy_(self.head.weight.data.abs().max())
        self.steps += 1
        self.table.copy_(torch.linspace(0.5, 1, 16) * x.shape[1])
        with torch.no_grad():
            self.mean.mul_(0.9).add_(x.mean((0, 1)), alpha=0.1)
        self.seen = torch.stack((x.detach().sum(), self.seen[0]))
        return x * self.table + self.mean * self.steps + self.seen[1] + self.range


class Normed(Mixing):
    """Batch-norm keeps running statistics, which it takes inside."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(16)

    def mix(self, x):
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Frozen(Normed):
    """As the error about `Normed` says."""

    def train(self, mode: bool = True):
        super().train(mode)
        self.norm.eval()
        return self


class OnlyLoss(nn.Module):
    """Returns its loss alone: what it keeps is not taken for the loss or the logits."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(64, 16), nn.Linear(16, 64)
        self.register_buffer("scale", torch.ones(16))
        self.hidden = None

    def forward(self, idx, targets):
        self.hidden = x = self.embed(idx)
        self.scale = self.scale * 0.5
        self.total = x.detach().sum()
        return F.cross_entropy(self.head(x * self.scale).flatten(0, 1), targets.flatten())


def rope(kind: str) -> nn.Module:
    """Frequencies that follow the length of the batch; 16 positions were trained on."""
    import transformers

    name = "Phi3ForCausalLM" if kind == "longrope" else "LlamaForCausalLM"
    scaling = {
        "longrope": dict(short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.5, 2.0, 3.0, 4.0], factor=4.0),
        "yarn": dict(factor=4.0),
        "dynamic": dict(factor=2.0),
    }[kind]
    original = {} if kind == "dynamic" else dict(original_max_position_embeddings=16)
    parameters = dict(rope_type=kind, rope_theta=10000.0, **original, **scaling)
    settings = FAMILIES[name] | dict(
        max_position_embeddings=16 if kind == "dynamic" else 64, rope_parameters=parameters
    )
    cls = getattr(transformers, name)
    return cls(cls.config_class(**settings, **(original if kind == "longrope" else {})))


def decided(length: int = 33) -> nn.Module:
    """Dynamic NTK, its frequencies decided outside the program, for one length, and kept."""
    model = rope("dynamic")
    rotary = model.model.rotary_emb
    rotary(torch.zeros(1), torch.arange(length)[None])
    rotary.rope_type = "default"
    return model


def __getattr__(name: str):
    if name in ("longrope", "yarn", "dynamic"):
        return partial(rope, name)
    raise AttributeError(name)


class Annealed(nn.Module):
    """A counter that scales what follows: its value in the forward is what the backward is of, too."""

    def __init__(self):
        super().__init__()
        self.embed, self.a, self.head = nn.Embedding(64, 16), nn.Linear(16, 16), nn.Linear(16, 64)
        self.register_buffer("n", torch.zeros(()))

    def forward(self, idx, targets):
        self.n += 1
        x = self.embed(idx)
        x = x + torch.tanh(self.a(x) * self.n) + self.a(x) * (1 + self.n.clone())
        return F.cross_entropy(self.head(x).flatten(0, 1), targets.flatten())


class Balanced(nn.Module):
    """A bias that chooses experts, moved after each batch (DeepSeek-V3's balance without a loss)."""

    def __init__(self):
        super().__init__()
        self.embed, self.gate, self.head = nn.Embedding(64, 16), nn.Linear(16, 4, bias=False), nn.Linear(16, 64)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.register_buffer("bias", torch.zeros(4))

    def forward(self, idx, targets):
        x = self.embed(idx)
        scores = self.gate(x).sigmoid()
        chosen = (scores + self.bias).topk(2, -1).indices
        weights = scores.new_zeros(scores.shape).scatter(-1, chosen, scores.gather(-1, chosen))
        with torch.no_grad():
            load = F.one_hot(chosen, 4).sum((0, 1, 2)).float()
            self.bias += 0.1 * torch.sign(load.mean() - load)
        x = x + (torch.stack([each(x) for each in self.experts], -2).tanh() * weights[..., None]).sum(-2)
        return F.cross_entropy(self.head(x).flatten(0, 1), targets.flatten())


def kept(name: str) -> dict[str, torch.Tensor]:
    """What a rank's model holds after two steps, and its gradients, against eager: the largest difference of each.
    name: a class, and after a colon what is recomputed."""
    name, _, recompute = name.partition(":")
    found = {}
    for sharded in (False, True):
        torch.manual_seed(0)
        model = globals()[name]().train()
        if sharded:
            mesh = torch.distributed.init_device_mesh("cpu", (1, 2), mesh_dim_names=("dp", "sp"))
            autosp.compile(model, SPEC, mesh=mesh, backend="aot_eager", recompute=recompute or "sac")
        for step in range(2):
            idx = torch.arange(20).view(2, 10) + step
            model(idx=idx, targets=idx).backward()
        gradients = {f"gradient of {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
        with torch.no_grad():
            model.eval()(idx=idx, targets=idx)
        held = {n: x for n, x in vars(model).items() if isinstance(x, torch.Tensor)}
        found[sharded] = {**held, **dict(model.named_buffers()), **gradients}
    assert sorted(found[True]) == sorted(found[False])
    return {n: float((x.double() - found[True][n].double()).abs().max()) for n, x in found[False].items()}
