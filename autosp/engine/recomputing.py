"""What the ranks of a group recompute: decided by the first, run by all."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence

import attrs
import torch
from torch import fx

from ..capture import Captured
from ..errors import Problem, RankError, StalePlanError
from ..recompute import Compiler, Decision, decide
from ..recompute.state import DTYPES, State, state_of
from ..solve import Device, Plan
from ..solve.cost import local_bytes
from ..solve.messages import size
from ..spec import Recompute
from .agree import Agreement
from .messages import plan_too_large
from .plan_file import PlanFile

# A step holds less than this many times all values of the forward: each with a gradient, and what
# the operators of the backward and a copy before a collective take for a moment.
AT_MOST = 4


@attrs.frozen
class States:
    """How the model is trained, which decides what its states take beside the activations."""

    optimizer: str = "adamw"
    zero: int = 0
    ranks: int = 1

    def of(self, captured: Captured, examples: Sequence) -> State:
        """Bytes of parameters, gradients and optimizer on one rank."""
        values = [x for p, x in zip(captured.placeholders, examples, strict=True) if p.role in ("param", "buffer")]
        dtype = next((x.dtype for x in values if x.requires_grad and x.dtype in DTYPES.values()), torch.float32)
        return state_of(values, dtype=dtype, optimizer=self.optimizer, zero=self.zero, ranks=self.ranks)


def decided(
    policy: Recompute,
    plan: Plan,
    local: fx.GraphModule,
    examples: Sequence,
    agreement: Agreement,
    states: States,
    compiler: Compiler,
    offload: bool = False,
    file: PlanFile | None = None,
) -> Decision | None:
    """The group's decision, or None where nothing need be decided: no gradient flows, PyTorch's own
    choice is requested, or all of it fits anyway. file: the saved plan whose decision it is, if that made one. Raises
    RankError where ranks request different policies, and StalePlanError where a saved decision does not fit."""

    def find() -> Decision | None:
        if not plan.problem.captured.training or policy.mode == "none":
            return None
        limit = limit_of(policy, states.of(plan.problem.captured, examples), device_memory(plan.device).usable)
        if file is not None and file.decision is not None:
            decision = _saved(file, file.decision, limit)
        elif policy.budget == "auto" and limit is not None and _most(plan) <= limit:
            return None
        else:
            decision = decide(
                local, examples, policy, device=plan.device, p=plan.p, limit=limit,
                plan=plan.fingerprint(), compiler=compiler, offload=offload and torch.cuda.is_available(),
            )  # fmt: skip
        if decision is not None and not decision.fits:
            warnings.warn(f"autosp: {_too_little(policy, decision)}", stacklevel=2)
        return decision

    return _agreed(policy, find, agreement)


def device_memory(device: Device) -> Device:
    """The device with the memory that the one at hand really has."""
    if not torch.cuda.is_available():
        return device
    return attrs.evolve(device, memory=torch.cuda.mem_get_info()[1])


def limit_of(policy: Recompute, state: State, usable: int) -> int | None:
    """What a policy leaves to activations and gradients on a device of so many usable bytes; None where
    it says nothing in bytes."""
    if policy.budget == "auto":
        return usable - state.lasting
    return policy.budget - state.lasting if isinstance(policy.budget, int) else None


def _most(plan: Plan) -> float:
    """More than activations can take on one rank."""
    values = plan.problem.values
    return AT_MOST * sum(local_bytes(v, plan.shardings[v.id], plan.problem, plan.mesh) for v in values if not v.param)


def _saved(file: PlanFile, decision: Decision, limit: int | None) -> Decision:
    """A saved plan's decision. Raises StalePlanError where it was for more memory than there is."""
    if limit is not None and decision.fits and decision.peak > limit:
        raise StalePlanError(plan_too_large(file.path, decision.peak, max(limit, 0)))
    return decision


def _agreed(policy: Recompute, find: Callable[[], Decision | None], agreement: Agreement) -> Decision | None:
    """The first rank's decision, on every rank."""

    def written() -> str:
        decision = find()
        return json.dumps([str(policy), None if decision is None else decision.fields()])

    first_policy, fields = json.loads(agreement.from_first_rank("plan", written))
    if first_policy != str(policy):
        raise RankError(_differ(agreement.mesh.ranks[0], first_policy, str(policy)))
    return None if fields is None else Decision.of(fields)


def _too_little(policy: Recompute, decision: Decision) -> str:
    return (
        f"'{policy}' leaves {size(max(decision.limit or 0, 0))} for activations, and the least peak is "
        f"{size(decision.peak)} ({decision.phase}, {decision.at}); it is taken. Give a larger budget, more ranks "
        "or shorter sequences"
    )


def _differ(first: int, theirs: str, own: str) -> Problem:
    return Problem(
        what=f"rank {first} was compiled with '{theirs}', this rank with '{own}'",
        rule="ranks of one group run the same collectives, so they recompute alike",
        fix="give every rank the same spec and recompute=",
        where="autosp.compile(recompute=...)",
    )
