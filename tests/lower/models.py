"""Small programs and their plans: what the tests of capture, solving and lowering share."""

from __future__ import annotations

import math
from functools import cache

import attrs
import torch
import torch.nn.functional as F
from torch import nn

from autosp.capture import Captured
from autosp.parity import simulate
from autosp.passes import global_graph
from autosp.sharding import MeshAxis
from autosp.solve import Ends, Plan, load_device, solve
from autosp.syntax import parse_layout

VOCAB = 50
SEQUENCE = ("input_ids", "labels", "position_ids", "x", "y")  # inputs that are split where a case names no layouts


@attrs.frozen
class Llama:
    """A tiny Hugging Face Llama and one batch."""

    heads: int = 8
    kv_heads: int = 8
    layers: int = 2
    batch: int = 1
    length: int = 32
    mask: str = "absent"  # absent | ones | right
    labels: str = "full"  # full | prompt | last (one valid token in all)
    positions: bool = True
    attn: str = "sdpa"  # sdpa | eager
    dtype: torch.dtype = torch.float32

    def model(self) -> nn.Module:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=8 * self.heads,
            intermediate_size=48,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=128,
            initializer_range=0.06,
            use_cache=False,
            attn_implementation=self.attn,
        )
        torch.manual_seed(0)
        return LlamaForCausalLM(config).to(self.dtype).train()

    def inputs(self) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(VOCAB, (self.batch, self.length), generator=generator)
        batch = {"input_ids": ids, "labels": ids.clone()}
        if self.labels == "prompt":
            batch["labels"][:, : self.length // 2 + 1] = -100
        if self.labels == "last":
            batch["labels"][:, :-1] = -100
        if self.positions:
            batch["position_ids"] = torch.arange(self.length).expand(self.batch, -1).contiguous()
        if self.mask != "absent":
            batch["attention_mask"] = torch.ones_like(ids)
        if self.mask == "right":
            for row in range(self.batch):
                end = max(1, self.length - 3 - 4 * row)
                batch["attention_mask"][row, end:] = 0
                batch["labels"][row, end:] = -100
        return batch


class Mlp(nn.Module):
    """Two linear layers with biases, a gate and a norm; the loss is a mean of squares."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.gate = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x, y):
        z = self.norm(x)
        return (x + self.down(F.silu(self.gate(z)) * self.up(z)) - y).square().mean()


class Attention(nn.Module):
    """One attention written out, or fused, without any mask. The norm in front holds the sequence
    split: projections of a whole input could as well be split over heads at no cost."""

    def __init__(self, width: int = 24, heads: int = 4, fused: bool = False):
        super().__init__()
        self.heads, self.fused = heads, fused
        self.norm = nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x, y):
        x = self.norm(x)
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.fused:
            z = F.scaled_dot_product_attention(q, k, v)
        else:
            z = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1) @ v
        return (self.o(z.transpose(1, 2).flatten(2)) - y).square().mean()


class Tokens(nn.Module):
    """Embedding, einsum mixing, head and the token loss of a language model, shifted as usual."""

    def __init__(self, width: int = 8, reduction: str = "mean"):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, width)
        self.mix = nn.Parameter(torch.randn(width, width) / 3)
        self.head = nn.Linear(width, VOCAB)
        self.reduction = reduction

    def forward(self, input_ids, labels):
        h = torch.einsum("bsd,de->bse", self.embed(input_ids), self.mix)
        logits = self.head(torch.tanh(h))
        shifted = F.pad(labels, (0, 1), value=-100)[:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), shifted.flatten(), ignore_index=-100, reduction=self.reduction)


class Pooled(nn.Module):
    """A sum over the sequence, then a linear layer too small to be split: it runs on partial sums,
    and its bias is added once."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(3)
        self.head = nn.Linear(3, 1)

    def forward(self, x, y):
        return (self.head(self.norm(x).sum(1)) - y.sum((1, 2))[:, None]).square().mean()


class Scan(nn.Module):
    """A gated recurrence by `associative_scan`, as state-space models have it: Dynamo writes its vmaps out."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate, self.value = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x, y):
        from torch._higher_order_ops.associative_scan import associative_scan

        def step(left, right):
            return left[0] * right[0], right[0] * left[1] + right[1]

        x = self.norm(x)
        _, states = associative_scan(step, (torch.sigmoid(self.gate(x)), self.value(x)), dim=1, combine_mode="generic")
        return (states - y).square().mean()


class Lent(nn.Module):
    """Casts and views to the dtype, or the shape, of a tensor whose values are not read."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x, y):
        x = self.norm(x)
        mixed = torch.stack([x[..., 1::2], x[..., ::2]], dim=-1).reshape_as(x)
        scale = x.mean(-1, keepdim=True).expand_as(x).type_as(self.mix.weight[0])
        return (self.mix(mixed).view_as(y) * scale - y).square().mean()


@attrs.frozen
class Toy:
    """A toy program and one batch."""

    kind: str = "mlp"  # mlp | attention | fused | tokens | pooled | scan | lent
    batch: int = 2
    length: int = 12
    dtype: torch.dtype = torch.float32
    width: int = 24
    heads: int = 4

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        made = {
            "mlp": Mlp,
            "attention": lambda: Attention(self.width, self.heads),
            "fused": lambda: Attention(self.width, self.heads, fused=True),
            "tokens": Tokens,
            "pooled": Pooled,
            "scan": lambda: Scan(self.width),
            "lent": lambda: Lent(self.width),
        }[self.kind]()
        return made.to(self.dtype).train()

    def inputs(self) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        if self.kind == "tokens":
            ids = torch.randint(VOCAB, (self.batch, self.length), generator=generator)
            return {"input_ids": ids, "labels": ids.clone()}
        width = {"mlp": 6, "pooled": 3}.get(self.kind, self.width)
        x, y = torch.randn(2, self.batch, self.length, width, generator=generator).to(self.dtype)
        return {"x": x, "y": y}


Program = Llama | Toy


def layout_of(name: str, x: torch.Tensor):
    """The layouts of the shipped specs: batch over dp, sequence over sp."""
    if name not in SEQUENCE:
        return None
    return parse_layout("[batch@dp, seq@sp]" if x.dim() == 2 else "[batch@dp, seq@sp, hidden]")


@cache
def captured(program: Program, dynamic: bool = False) -> tuple[Captured, tuple]:
    """The captured graph of a program, and the graph's example inputs."""
    return global_graph(program.model(), program.inputs(), layout_of=layout_of, dynamic=dynamic)


@cache
def planned(
    program: Program, p: int, attention: str = "ulysses", *, dynamic: bool = False, device: str = "a100-80gb"
) -> Plan:
    """The plan of a program; logits are not produced."""
    graph, _ = captured(program, dynamic)
    return solve(graph, ends(graph, attention), axis=MeshAxis("sp", p), device=load_device(device))


def ends(graph: Captured, attention: str = "ulysses") -> Ends:
    """The ends of the shipped specs."""
    return Ends(tuple("none" if o.name == "logits" else "whole" for o in graph.outputs), attention)


@cache
def reference(program: Program) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of plain eager PyTorch, by parameter name."""
    model = program.model()
    out = model(**program.inputs())
    loss = out if isinstance(out, torch.Tensor) else out.loss
    loss.backward()
    return loss.detach(), {name: x.grad for name, x in model.named_parameters()}


def simulated(program: Program, plan: Plan, *, dynamic: bool = False) -> list[tuple]:
    """Loss and gradients by parameter name, of every rank."""
    graph, inputs = captured(program, dynamic)
    return [named(graph, outputs, grads) for outputs, grads in simulate(plan, inputs)]


def named(graph: Captured, outputs, grads) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """One rank's loss, and its gradients by parameter name."""
    return outputs[0].detach(), {p.name: g for p, g in zip(graph.placeholders, grads) if p.role == "param"}


def misses(found, expected, relative: float = 1e-5, floor: float = 1e-7) -> list[str]:
    """What lies outside the bar |Δ| <= relative * max|ref| + floor * (the largest max over all)."""
    loss, grads = found
    loss_ref, grads_ref = expected
    assert sorted(grads) == sorted(grads_ref)
    largest = max(float(g.abs().max()) for g in grads_ref.values())
    bad = []
    if not torch.allclose(loss, loss_ref, rtol=relative, atol=0, equal_nan=True):
        bad.append(f"loss {float(loss)} against {float(loss_ref)}")
    for name, ref in grads_ref.items():
        bound = relative * float(ref.abs().max()) + floor * largest
        worst = float((grads[name] - ref).abs().max())
        if not worst <= bound:
            bad.append(f"{name}: {worst:.2e} against a bound of {bound:.2e}")
    return bad


def assert_parity(program: Program, p: int, attention: str = "ulysses", *, dynamic: bool = False) -> Plan:
    """Every rank's loss and gradients are those of plain eager PyTorch; all ranks have one loss."""
    plan = planned(program, p, attention, dynamic=dynamic)
    double = program.dtype == torch.float64
    bar = {"relative": 1e-12, "floor": 1e-13} if double else {}
    results = simulated(program, plan, dynamic=dynamic)
    for rank, found in enumerate(results):
        assert not (bad := misses(found, reference(program), **bar)), f"rank {rank}: {bad}"
    assert all(torch.equal(loss, results[0][0]) for loss, _ in results)
    return plan
