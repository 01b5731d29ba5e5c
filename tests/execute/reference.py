"""The unsharded program: plain eager PyTorch on the whole batch, and the bar that the sharded one is held to."""

from __future__ import annotations

import attrs
import torch

from tests.execute.case import STEPS, Case, build_batch, build_model, build_optimizer

LOSS_BAR = 1e-5  # relative
PARAMETER_BAR = 1e-5  # of the parameter's own maximum
FLOOR = 1e-7  # of the largest maximum over all parameters: a gradient that is zero in exact arithmetic is noise


@attrs.frozen
class Reference:
    """Losses by micro step (with dp: the mean over dp) and the parameters at the end."""

    losses: tuple[float, ...]
    parameters: dict[str, torch.Tensor]


@attrs.frozen
class Difference:
    """The parameter furthest from its bar; `ratio` is |Δ| over what is allowed there, so 1 is the bar."""

    parameter: str
    ratio: float
    relative: float


def reference(case: Case) -> Reference:
    """Trains the whole program: gradients are the mean over dp of each rank's own eager loss."""
    model = build_model(case)
    optimizer = build_optimizer(case, model)
    losses = []
    for step in range(STEPS):
        optimizer.zero_grad()
        losses += [_micro_step(case, model, step, micro) for micro in range(case.accumulate)]
        if case.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), case.clip)
        optimizer.step()
    return Reference(tuple(losses), snapshot(model))


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def compare(expected: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> Difference:
    """The worst parameter of `got`. A missing one, or one that is not a number, is infinitely far."""
    largest = max(float(value.abs().max()) for value in expected.values())
    distances = [_distance(name, value, got.get(name), largest) for name, value in expected.items()]
    return max(distances, key=lambda distance: distance.ratio)


def loss_error(expected: tuple[float, ...], got: tuple[float, ...]) -> float:
    """The largest relative difference over the steps."""
    errors = [abs(a - b) / abs(a) for a, b in zip(expected, got, strict=True)]
    return max(error if error == error else float("inf") for error in errors)


def _micro_step(case: Case, model: torch.nn.Module, step: int, micro: int) -> float:
    total = 0.0
    for dp_rank in range(case.dp):
        loss = model(**build_batch(case, step, micro, dp_rank)).loss
        (loss / (case.dp * case.accumulate)).backward()
        total += float(loss.detach())
    return total / case.dp


def _distance(name: str, expected: torch.Tensor, got: torch.Tensor | None, largest: float) -> Difference:
    if got is None or got.shape != expected.shape or not bool(torch.isfinite(got).all()):
        return Difference(name, float("inf"), float("inf"))
    own = float(expected.abs().max())
    off = float((expected.double() - got.double()).abs().max())
    return Difference(name, off / (PARAMETER_BAR * own + FLOOR * largest), off / own if own else float("inf"))
