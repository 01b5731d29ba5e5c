"""What acts while a forward runs, and leaves no operator in a captured graph: refused, with a way that works."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autosp.compat.tested import release
from autosp.parity.judging import judge
from autosp.parity.messages import page
from autosp.parity.trial import Trial
from tests.execute import families
from tests.execute.experts import SPEC


class Halved(torch.autograd.Function):
    """The same value, half its gradient: what the refusal says to write."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return 0.5 * grad


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.a, self.head = nn.Embedding(64, 16), nn.Linear(16, 16), nn.Linear(16, 64)

    def halved(self, y):
        y.register_hook(lambda grad: grad * 0.5)
        return y

    def forward(self, idx, targets):
        x = self.embed(idx)
        return F.cross_entropy(self.head(x + self.halved(self.a(x))).flatten(0, 1), targets.flatten())


class Checkpointed(Net):
    def halved(self, y):
        return torch.utils.checkpoint.checkpoint(super().halved, y, use_reentrant=False)


class ByFunction(Net):
    def halved(self, y):
        return Halved.apply(y)


class Sparse(ByFunction):
    def __init__(self, sparse: bool = True):
        super().__init__()
        self.embed = nn.Embedding(64, 16, sparse=sparse)


def dense():
    return Sparse(sparse=False)


def adapted():
    """A Llama with LoRA under gradient checkpointing, as trainers set it up: the embedding's output asks for one."""
    model = families.lora()
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    return model


class Asks(Net):
    def halved(self, y):
        return y.detach().requires_grad_()


def test_a_gradient_of_an_embedding_that_trainers_ask_for_is_no_hindrance():
    verdict = judge(Trial("tests.capture.test_effects:adapted", sp=2, lengths=(14,), lr=0.1), simulate=True)
    assert verdict.exact, page(verdict)


def test_a_gradient_asked_for_inside_is_refused():
    refusal = verdict_of("Asks").refusal
    assert "requires_grad_()" in refusal.what and "fix: leave requires_grad_() out" in refusal.text


def test_a_sparse_gradient_is_refused_and_the_fix_is_exact():
    refusal = verdict_of("Sparse").refusal
    assert refusal.what == (
        "aten.embedding.default is called with sparse=True: its weight's gradient is a sparse tensor"
    )
    verdict = verdict_of("dense")
    assert verdict.exact, page(verdict)


def verdict_of(name: str):
    return judge(Trial(f"tests.capture.test_effects:{name}", spec=SPEC, sp=2, lengths=(14,), lr=0.1), simulate=True)


def test_a_hook_on_a_value_is_refused_and_the_fix_is_exact():
    verdict = verdict_of("Net")
    if release(torch.__version__) < (2, 13):  # Dynamo has the hook called by the trace, which holds what it does
        assert verdict.exact, page(verdict)
    else:
        assert verdict.refusal.what == "a hook on a value of the forward (register_hook) would be lost"
        assert "test_effects.py" in verdict.refusal.text and "y.register_hook(lambda grad" in verdict.refusal.text
    verdict = verdict_of("ByFunction")
    assert verdict.exact, page(verdict)


@pytest.mark.skipif(release(torch.__version__) < (2, 13), reason="Dynamo fails on it there")
def test_a_hook_in_a_checkpointed_part_is_not_lost_either():
    verdict = verdict_of("Checkpointed")
    assert verdict.refusal or verdict.exact, page(verdict)
