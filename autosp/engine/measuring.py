"""`autosp.measure`: what was predicted of a compiled model against what its steps took."""

from __future__ import annotations

import attrs
import torch

from ..compat.torch import compiled_call
from ..errors import EngineError, Problem
from ..recompute import Decision, decide
from ..recompute.state import State
from ..solve import Plan
from ..solve.messages import size
from .compiled import Compiled
from .dynamo_backend import Backend
from .inner import compiler_of, inner_for
from .mesh import is_deepspeed
from .recomputing import device_memory, limit_of
from .step import Step


@attrs.frozen
class Measured:
    """Predicted and measured, of the last whole step (from one call to the next, so with the optimizer).

    peak bytes: of one rank, measured where the device counts its allocations (CUDA), else None.
    seconds: predicted of forward and backward with what runs twice, by the device that the plan is for. compiled: what
    the way to the first step took, and what of it was there already.
    """

    predicted_peak: int | None
    measured_peak: int | None
    predicted_seconds: float
    measured_seconds: float
    device: str
    calls: int
    compiled: Compiled

    def __str__(self) -> str:
        ratio = self.predicted_seconds / self.measured_seconds
        step = (
            f"step   predicted {self.predicted_seconds:.4f} s on {self.device} (forward and backward), "
            f"measured {self.measured_seconds:.4f} s (a whole step): {ratio:.2f}"
        )
        return "\n".join([step, self._peak(), str(self.compiled)])

    def _peak(self) -> str:
        if self.predicted_peak is None:
            return "peak   not predicted: no gradient flows"
        peak = f"peak   predicted {size(self.predicted_peak)}"
        if self.measured_peak is None:
            return f"{peak}, not measured: this device does not count its allocations"
        return f"{peak}, measured {size(self.measured_peak)}: {self.predicted_peak / self.measured_peak:.3f}"


def measure(model_or_engine) -> Measured:
    """What was predicted of a compiled model against what its last training step took.

    The peak is predicted here, if it was not when the model was compiled: that takes a trace.

    Args:
        model_or_engine: what `autosp.compile` gave back, after three training steps or more.

    Returns:
        A `Measured`: peaks of one rank in bytes (measured on CUDA alone, else None) and seconds of a step, predicted
        and measured. `str` words it.

    Raises:
        EngineError: it was not compiled by autosp, or has not made three training steps.

    Example:
        >>> import autosp, torch
        >>> autosp.measure(torch.nn.Linear(1, 1))
        Traceback (most recent call last):
        ...
        autosp.errors.EngineError: error: this Linear was not compiled by autosp
        ...
    """
    step = _step(model_or_engine)
    clock = step.clock
    if clock.seconds is None:
        raise EngineError(_no_step(clock.calls))
    plan, state, decision = _predicted(step.backend)
    compiled = step.backend.compiled
    assert compiled is not None
    peak = None if decision is None else state.parameters + state.optimizer + decision.peak
    again = decision.seconds if decision else 0.0
    return Measured(peak, clock.peak, plan.step_seconds + again, clock.seconds, plan.device.name, clock.calls, compiled)


def predicted(model_or_engine) -> tuple[Plan, State, Decision | None]:
    """What was predicted of the program that the last call compiled: its plan, the states that were taken for granted,
    and what one rank saves and recomputes (None where no gradient flows). Raises EngineError as `measure`."""
    step = _step(model_or_engine)
    if not step.backend.plans:
        raise EngineError(_no_step(step.clock.calls))
    return _predicted(step.backend)


def _step(model_or_engine) -> Step:
    module = model_or_engine.module if is_deepspeed(model_or_engine) else model_or_engine
    step = compiled_call(module)
    if not isinstance(step, Step):
        raise EngineError(_not_compiled(type(model_or_engine).__name__))
    return step


def _predicted(backend: Backend) -> tuple[Plan, State, Decision | None]:
    """Of the very program that runs."""
    program, options, policy = backend.program, backend.options, backend.policy
    assert program is not None and program.local is not None, "compiled"
    captured, plan = program.captured, backend.plans[-1]
    vals = {n.name: n.meta.get("val") for n in captured.graph.graph.nodes if n.op == "placeholder"}
    examples = [_example(vals[p.node], p.requires_grad) for p in captured.placeholders]
    state = options.states.of(captured, examples)
    if program.decision is not None:
        return plan, state, program.decision
    return plan, state, decide(
        program.local, examples, policy, device=plan.device, p=plan.p, plan=plan.fingerprint(),
        limit=limit_of(policy, state, device_memory(plan.device).usable),
        offload=backend.spec.offload == "auto" and torch.cuda.is_available(),
        compiler=compiler_of(inner_for(options.inner, plan), examples),
    )  # fmt: skip


def _example(val, requires_grad: bool):
    return val.detach().requires_grad_(requires_grad) if isinstance(val, torch.Tensor) else val


def _no_step(calls: int) -> Problem:
    return Problem(
        what=f"the compiled model was called {calls} times, and no whole step was seen yet",
        rule="the first call compiles; a step is measured from the call after it to the next one",
        fix="train three steps, then measure",
        where="autosp.measure",
    )


def _not_compiled(kind: str) -> Problem:
    return Problem(
        what=f"this {kind} was not compiled by autosp",
        rule="autosp.measure takes what autosp.compile gave back",
        fix="compile it first: autosp.compile(model_or_engine, ...)",
        where="autosp.measure",
    )
