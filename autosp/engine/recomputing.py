"""What the ranks of a group recompute: decided by the first, run by all."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence

import attrs
import torch
from torch import fx

from ..capture import Captured
from ..errors import Problem, RankError
from ..recompute import Choice, Compiler, Decision, decide
from ..recompute.state import DTYPES, State, state_of
from ..solve import Device, Plan
from ..solve.cost import held_bytes
from ..solve.messages import size
from ..spec import Recompute
from .agree import Agreement

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
        held = [x for p, x in zip(captured.placeholders, examples, strict=True) if p.role in ("param", "buffer")]
        dtype = next((x.dtype for x in held if x.requires_grad and x.dtype in DTYPES.values()), torch.float32)
        return state_of(held, dtype=dtype, optimizer=self.optimizer, zero=self.zero, ranks=self.ranks)


def decided(
    policy: Recompute,
    plan: Plan,
    local: fx.GraphModule,
    examples: Sequence,
    agreement: Agreement,
    states: States,
    compiler: Compiler,
    offload: bool = False,
) -> Decision | None:
    """The group's decision, or None where nothing need be decided: no gradient flows, PyTorch's own
    choice is asked for, or all of it fits anyway. Raises RankError where ranks ask for different things."""

    def find() -> Decision | None:
        if not plan.problem.captured.training or policy.mode == "none":
            return None
        limit = limit_of(policy, states.of(plan.problem.captured, examples), device_memory(plan.device).usable)
        if policy.budget == "auto" and limit is not None and _most(plan) <= limit:
            return None
        found = decide(
            local, examples, policy, device=plan.device, p=plan.p, limit=limit,
            plan=plan.fingerprint(), compiler=compiler, offload=offload and torch.cuda.is_available(),
        )  # fmt: skip
        if found is not None and not found.fits:
            warnings.warn(f"autosp: {_too_little(policy, found)}", stacklevel=2)
        return found

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
    return AT_MOST * sum(held_bytes(v, plan.shardings[v.id], plan.problem, plan.mesh) for v in values if not v.param)


def _agreed(policy: Recompute, find: Callable[[], Decision | None], agreement: Agreement) -> Decision | None:
    """The first rank's decision, on every rank."""
    said = agreement.first_says("plan", lambda: f"{policy}\n{_written(find())}")
    asked, _, decision = said.partition("\n")
    if asked != str(policy):
        raise RankError(_differ(agreement.mesh.ranks[0], asked, str(policy)))
    return _read(decision)


def _written(found: Decision | None) -> str:
    if found is None:
        return ""
    fields = {f.name: getattr(found, f.name) for f in attrs.fields(Decision)}
    if found.choice is not None:
        fields["choice"] = [
            sorted(found.choice.saved), sorted(found.choice.twice), found.choice.plan, found.choice.offload,
        ]  # fmt: skip
    return json.dumps(fields)


def _read(text: str) -> Decision | None:
    if not text:
        return None
    fields = json.loads(text)
    if fields["choice"] is not None:
        saved, twice, *rest = fields["choice"]
        fields["choice"] = Choice(frozenset(map(tuple, saved)), frozenset(map(tuple, twice)), *rest)
    return Decision(**fields)


def _too_little(policy: Recompute, found: Decision) -> str:
    return (
        f"'{policy}' leaves {size(max(found.limit or 0, 0))} for activations, and the least peak is {size(found.peak)} "
        f"({found.phase}, {found.at}); it is taken. Give a larger budget, more ranks or shorter sequences"
    )


def _differ(first: int, asked: str, own: str) -> Problem:
    return Problem(
        what=f"rank {first} was compiled with '{asked}', this rank with '{own}'",
        rule="ranks of one group run the same collectives, so they recompute alike",
        fix="give every rank the same spec and recompute=",
        where="autosp.compile(recompute=...)",
    )
