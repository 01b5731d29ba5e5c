"""Decoders with autograd.Functions whose backward is their own: what people write, one kind a class."""

from __future__ import annotations

import torch
from torch import nn
from torch._higher_order_ops.associative_scan import associative_scan
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.execute.odd import SPEC as SPEC

VOCAB, WIDTH, HEADS = 64, 16, 4


class Gelu(Function):
    """BLOOM's."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * 0.5 * (1.0 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        t = torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))
        return (0.5 * x * ((1 - t * t) * (0.79788456 + 0.1070322243 * x * x)) + 0.5 * (1 + t)) * grad


class Tripled(Function):
    """The gradient is scaled; a function as vmap takes it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return grad * 3


def tripled(x):
    return x * 3 + (x - x * 3).detach()


class Quantised(Function):
    """A straight-through estimator: the gradient of rounding would be zero."""

    @staticmethod
    def forward(ctx, x, step):
        return torch.round(x / step) * step

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad, None


class Clipped(Function):
    """The gradient's values are clipped: not linear in the gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad.clamp(-2e-4, 2e-4)


class ClippedNorm(Function):
    """The gradient is scaled by its norm over all positions."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.clamp(1e-3 / grad.norm(), max=1.0)


class Scaled(Function):
    """A gradient scaled by a number, in the style of setup_context."""

    @staticmethod
    def forward(x, factor):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


class WithAuxiliaryLoss(Function):
    """DeepSeek's: the loss of a router enters the backward, not the forward."""

    @staticmethod
    def forward(ctx, x, loss):
        ctx.dtype, ctx.wanted = loss.dtype, loss.requires_grad
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad, 0.01 * torch.ones(1, dtype=ctx.dtype, device=grad.device) if ctx.wanted else None


class Projected(Function):
    """A linear layer, with a count that has no gradient, sizes kept as numbers, and needs_input_grad."""

    @staticmethod
    def forward(ctx, x, weight, bias, scale):
        ctx.save_for_backward(x, weight)
        ctx.scale, ctx.shape = scale, x.shape
        count = (x > 0).sum()
        ctx.mark_non_differentiable(count)
        return F.linear(x, weight, bias) * scale, count

    @staticmethod
    def backward(ctx, grad, _):
        x, weight = ctx.saved_tensors
        batch, length, width = ctx.shape
        grad = grad * ctx.scale
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = grad.reshape(batch * length, -1).t() @ x.reshape(batch * length, width)
        return grad @ weight, of_weight, grad.sum((0, 1)), None


class ProjectedAmp(Function):
    """A linear layer that follows autocast, in both directions."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        return grad @ weight, grad.flatten(0, 1).t() @ x.flatten(0, 1)


class Normed(Function):
    """RMSNorm, its weight's gradient summed over all tokens; it writes to tensors of its own."""

    @staticmethod
    def forward(ctx, x, weight):
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True).add_(1e-6))
        ctx.save_for_backward(x, weight, scale)
        y = x * scale
        y *= weight
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        of_weight = (grad * x * scale).sum((0, 1))
        grad = grad * weight
        return scale * grad - x * scale.pow(3) * (grad * x).mean(-1, keepdim=True), of_weight


class Turned(Function):
    """Rotary embedding; cosine and sine are made inside, by position."""

    @staticmethod
    def forward(ctx, x):
        angle = torch.arange(x.shape[-2], device=x.device)[:, None] * torch.tensor([1.0, 0.3, 1.0, 0.3])
        cos, sin = angle.cos(), angle.sin()
        ctx.save_for_backward(cos, sin)
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat((-b, a), -1) * sin

    @staticmethod
    def backward(ctx, grad):
        cos, sin = ctx.saved_tensors
        a, b = (grad * sin).chunk(2, -1)
        return grad * cos + torch.cat((b, -a), -1)


class Summed(Function):
    """A running sum over positions, and its transpose."""

    @staticmethod
    def forward(ctx, x):
        return x.cumsum(1) * 0.1

    @staticmethod
    def backward(ctx, grad):
        return grad.flip(1).cumsum(1).flip(1) * 0.1


class Centred(Function):
    """Minus the mean over all positions."""

    @staticmethod
    def forward(ctx, x):
        return x - x.mean((0, 1), keepdim=True)

    @staticmethod
    def backward(ctx, grad):
        return grad - grad.mean((0, 1), keepdim=True)


class TokenLoss(Function):
    """Linear layer and loss in one, whose gradients are made in the forward, as Liger's are."""

    @staticmethod
    def forward(ctx, x, weight, targets):
        batch, length, width = x.shape
        x, targets = x.reshape(-1, width), targets.reshape(-1)
        valid = targets != -100
        safe = torch.where(valid, targets, 0)
        count = valid.sum()
        logits = (x @ weight.t()).float()
        chosen = logits.gather(-1, safe[:, None]).squeeze(-1)
        loss = ((torch.logsumexp(logits, -1) - chosen) * valid).sum() / count
        away = torch.softmax(logits, -1) - F.one_hot(safe, weight.shape[0]).to(logits.dtype)
        away = away * (valid[:, None] / count)
        ctx.save_for_backward((away @ weight).reshape(batch, length, width), away.t() @ x)
        return loss

    @staticmethod
    def backward(ctx, grad):
        of_x, of_weight = ctx.saved_tensors
        return of_x * grad, of_weight * grad, None


class ChunkedLoss(Function):
    """The same a few tokens at a time: slices of the tokens."""

    @staticmethod
    def forward(ctx, x, weight, targets):
        tokens, labels = x.flatten(0, 1), targets.flatten()
        count = (labels != -100).sum()
        of_x, of_weight, total = [], torch.zeros_like(weight), 0.0
        for part, own in zip(tokens.split(8), labels.split(8), strict=True):
            logits = part @ weight.t()
            total = total + F.cross_entropy(logits, own, reduction="sum")
            away = torch.softmax(logits, -1) - F.one_hot(own.clamp(min=0), weight.shape[0])
            away = away * (own != -100)[:, None] / count
            of_x.append(away @ weight)
            of_weight = of_weight + away.t() @ part
        ctx.save_for_backward(torch.cat(of_x).view_as(x), of_weight)
        return total / count

    @staticmethod
    def backward(ctx, grad):
        of_x, of_weight = ctx.saved_tensors
        return of_x * grad, of_weight * grad, None


class Shifted(Function):
    """The gradients of what is broadcast are left to autograd to sum."""

    @staticmethod
    def forward(ctx, x, shift, scale):
        ctx.save_for_backward(x, scale)
        return x * scale + shift

    @staticmethod
    def backward(ctx, grad):
        x, scale = ctx.saved_tensors
        return grad * scale, grad, grad * x


class Waves(Function):
    """Two results; what the backward reads are attributes of ctx."""

    @staticmethod
    def forward(ctx, x):
        ctx.x, ctx.sine = x, x.sin()
        return x.exp(), x.cos()

    @staticmethod
    def backward(ctx, grad, other):
        return 0.5 * grad * ctx.x.exp() - other * ctx.sine


class MaterialisedHalves(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1.0, x * 2.0

    @staticmethod
    def backward(ctx, grad, other):
        return 0.5 * grad if other is None else grad + 2 * other


class Halves(MaterialisedHalves):
    """The gradient of an unused result is None, by ctx.set_materialize_grads."""

    @staticmethod
    def forward(ctx, x):
        ctx.set_materialize_grads(False)
        return x * 1.0, x * 2.0


class Dirty(Function):
    @staticmethod
    def forward(ctx, x):
        x.mul_(2)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class Clean(Function):
    @staticmethod
    def forward(ctx, x):
        return x.mul(2)

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class Dropped(Function):
    @staticmethod
    def forward(ctx, x):
        kept = torch.rand_like(x) < 2
        ctx.save_for_backward(kept)
        return x * kept

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]


class Kept(Function):
    @staticmethod
    def forward(ctx, x, draws):
        kept = draws < 2
        ctx.save_for_backward(kept)
        return x * kept

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None


class Forked(Function):
    @staticmethod
    def forward(ctx, x):
        return torch.cond(x.square().sum() > 1, lambda y: y * 2, lambda y: y * 1, (x,))

    @staticmethod
    def backward(ctx, grad):
        return grad


@torch.library.custom_op("autosp_tests::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2.0


doubled.register_fake(lambda x: torch.empty_like(x))
doubled.register_autograd(lambda ctx, grad: grad * 2.0)


class ByOperator(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2.0

    @staticmethod
    def backward(ctx, grad):
        return torch.ops.autosp_tests.doubled(grad)


class Decoder(nn.Module):
    """Embedding, linear layer, the function, attention, head, loss over shifted labels."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCAB, WIDTH), nn.Linear(WIDTH, VOCAB, bias=False)
        self.first, self.second, self.qkv = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, 3 * WIDTH),
        )
        self.norm, self.router = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4)

    def own(self, x):
        return x

    def turn(self, x):
        return x

    def loss(self, x, targets):
        return F.cross_entropy(self.head(x).flatten(0, 1), targets.flatten())

    def attend(self, x):
        q, k, v = (y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v, is_causal=True)
        return y.transpose(1, 2).flatten(2)

    def forward(self, idx, targets):
        x = self.own(self.norm(self.first(self.embed(idx))))
        return self.loss(x + self.attend(x), F.pad(targets, (0, 1), value=-100)[:, 1:])


def applied(function: type[Function], *args) -> type[Decoder]:
    """A decoder with the function and nothing else."""

    class Applied(Decoder):
        def own(self, x):
            return function.apply(x, *args)

    return Applied


StraightThrough = applied(Quantised, 0.125)
ClippedGradient = applied(Clipped)
ClippedGradientNorm = applied(ClippedNorm)
ScaledGradient = applied(Scaled, 0.25)
RunningSum = applied(Summed)
Centring = applied(Centred)
DrawsInside = applied(Dropped)
Branching = applied(Forked)


class Activation(Decoder):
    """In several layers."""

    def own(self, x):
        return Gelu.apply(self.second(Gelu.apply(x)))


class Checkpointed(Activation):
    """Inside activation checkpointing."""

    def own(self, x):
        for _ in range(2):
            x = checkpoint(super().own, x, use_reentrant=False)
        return x


class AuxiliaryLoss(Decoder):
    def own(self, x):
        return WithAuxiliaryLoss.apply(x, self.router(x).softmax(-1).mean((0, 1)).square().sum())


class OwnLinear(Decoder):
    def own(self, x):
        y, count = Projected.apply(x, self.second.weight, self.second.bias, 2.0)
        return y / (1 + count)


class FrozenLinear(OwnLinear):
    """The backward gives no gradient of the weight, which wants none."""

    def __init__(self):
        super().__init__()
        self.second.requires_grad_(False)


class AmpLinear(Decoder):
    def own(self, x):
        return ProjectedAmp.apply(x, self.second.weight)


class OwnNorm(Decoder):
    def own(self, x):
        return Normed.apply(x, self.norm.weight)


class Rotary(Decoder):
    def turn(self, x):
        return Turned.apply(x)


class FusedLoss(Decoder):
    def loss(self, x, targets):
        return TokenLoss.apply(x, self.head.weight, targets)


class FusedLossInChunks(Decoder):
    def loss(self, x, targets):
        return ChunkedLoss.apply(x, self.head.weight, targets)


class Broadcast(Decoder):
    """Over tokens, and over features."""

    def own(self, x):
        return Shifted.apply(x, self.second.bias, x.mean(-1, keepdim=True))


class FlatTokens(Decoder):
    """Batch and tokens in one dim."""

    def own(self, x):
        return Gelu.apply(x.flatten(0, 1)).view_as(x)


class TwoResults(Decoder):
    def own(self, x):
        a, b = Waves.apply(x)
        return a + b


class Attributes(Decoder):
    """One of two results is not used."""

    def own(self, x):
        return Waves.apply(x)[1]


class Unmaterialised(Decoder):
    def own(self, x):
        return Halves.apply(x)[0]


class Materialised(Decoder):
    def own(self, x):
        return MaterialisedHalves.apply(x)[0]


class WritesItsInput(Decoder):
    def own(self, x):
        return Dirty.apply(x * 1.0)


class WritesNothing(Decoder):
    def own(self, x):
        return Clean.apply(x * 1.0)


class DrawsOutside(Decoder):
    """(All draws are below 2: the reference draws others.)"""

    def own(self, x):
        return Kept.apply(x, torch.rand_like(x))


class Choosing(Decoder):
    """In differentiable operators."""

    def own(self, x):
        return torch.where(x.square().sum() > 1, x * 2, x * 1)


class UnderVmap(Decoder):
    def own(self, x):
        return torch.vmap(lambda row: Tripled.apply(row) * 0.5)(x)


class BesideVmap(Decoder):
    """On the whole tensor."""

    def own(self, x):
        return torch.vmap(lambda row: row * 0.5)(Tripled.apply(x))


class UnderScan(Decoder):
    def own(self, x):
        return associative_scan(lambda a, b: Tripled.apply(a) * 0.25 + b, x, dim=1, combine_mode="generic")


class DetachedUnderScan(Decoder):
    """In operators of which autograd makes that backward."""

    def own(self, x):
        return associative_scan(lambda a, b: tripled(a) * 0.25 + b, x, dim=1, combine_mode="generic")


class OwnOperator(Decoder):
    def own(self, x):
        return ByOperator.apply(x)


class OperatorOfParts(Decoder):
    """On parts of a value, which to gather once is cheaper than to gather each part."""

    def own(self, x):
        a, b = x.unflatten(-1, (2, -1)).unbind(2)
        return torch.cat([torch.ops.autosp_tests.doubled(a), torch.ops.autosp_tests.doubled(b)], -1)


class CustomOperator(Decoder):
    """Its backward by register_autograd."""

    def own(self, x):
        return torch.ops.autosp_tests.doubled(x)


class Together(Decoder):
    """Most of the above in one model."""

    def own(self, x):
        x = Normed.apply(checkpoint(Gelu.apply, x, use_reentrant=False), self.norm.weight)
        x = Clipped.apply(Quantised.apply(x, 0.0625))
        x = AuxiliaryLoss.own(self, x)
        return x + OwnLinear.own(self, x)

    def turn(self, x):
        return Turned.apply(x)

    def loss(self, x, targets):
        return TokenLoss.apply(x, self.head.weight, targets)
