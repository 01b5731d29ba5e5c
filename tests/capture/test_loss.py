"""The canonical cross-entropy: a sum over valid tokens over their count, equal to torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autosp.passes import global_graph

CLASSES, TOKENS = 5, 9


class Loss(nn.Module):
    """A cross-entropy of a parameter, so that its gradient is checked too."""

    def __init__(self, weighted: bool, **options):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.logits = nn.Parameter(torch.randn(TOKENS, CLASSES, generator=generator, dtype=torch.float64))
        weight = torch.rand(CLASSES, generator=generator, dtype=torch.float64) + 0.5
        self.register_buffer("weight", weight if weighted else None)
        self.options = options

    def forward(self, labels):
        found = F.cross_entropy(self.logits, labels, weight=self.weight, **self.options)
        return found if found.dim() == 0 else (found * found).sum()


def labels_of(kind: str, ignore: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if kind == "soft":
        return torch.rand(TOKENS, CLASSES, generator=generator, dtype=torch.float64).softmax(-1)
    labels = torch.randint(CLASSES, (TOKENS,), generator=generator)
    if kind == "some ignored":
        labels[2:5] = ignore
    if kind == "all ignored":
        labels[:] = ignore
    return labels


def both(model: nn.Module, labels: torch.Tensor):
    """Loss and gradient of the captured graph, and of eager."""
    graph, inputs = global_graph(model, {"labels": labels})
    own = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
    loss = graph.graph(*own)[0]
    loss.backward()
    found = loss.detach(), next(x.grad for x in own if x.requires_grad)
    expected = model(labels)
    expected.backward()
    return found, (expected.detach(), model.logits.grad), graph


OPTIONS = [  # weighted, label smoothing, ignored index
    (False, 0.0, -100),
    (True, 0.0, 1),
    (False, 0.1, 1),
    (True, 0.1, -100),
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kind", ["full", "some ignored", "all ignored", "soft"])
def test_cross_entropy_is_torchs(reduction, kind):
    for weighted, smoothing, ignore in OPTIONS:
        if kind == "soft" and ignore != -100:
            continue  # torch refuses it
        model = Loss(weighted, reduction=reduction, label_smoothing=smoothing, ignore_index=ignore)
        found, expected, graph = both(model, labels_of(kind, ignore))
        for a, b in zip(found, expected):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14, equal_nan=True)
        assert found[0].isnan() == (reduction == "mean" and kind == "all ignored")
        targets = graph.graph.graph.find_nodes(op="call_function", target=torch.ops.aten.cross_entropy_loss.default)
        assert all(len(n.args) > 3 and n.args[3] != 1 for n in targets)  # no mean of a part is ever taken


@pytest.mark.parametrize("kind", ["full", "some ignored", "all ignored"])
@pytest.mark.parametrize("weighted", [False, True])
def test_nll_loss_is_torchs(kind, weighted):
    """The other token loss whose mean is over the valid ones."""

    class Nll(Loss):
        def forward(self, labels):
            return F.nll_loss(torch.log_softmax(self.logits, -1), labels, weight=self.weight, ignore_index=-100)

    found, expected, graph = both(Nll(weighted), labels_of(kind, -100))
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14, equal_nan=True)
    (call,) = graph.graph.graph.find_nodes(op="call_function", target=torch.ops.aten.nll_loss_nd.default)
    assert call.args[3] == 2


def test_other_mean_losses_are_left_alone():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.x = nn.Parameter(torch.ones(3))

        def forward(self, y):
            return F.mse_loss(self.x, y)

    graph, _ = global_graph(Mean(), {"y": torch.zeros(3)})
    assert torch.ops.aten.mse_loss.default in {n.target for n in graph.graph.graph.nodes}
