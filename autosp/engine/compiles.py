"""How often a model was compiled, and which of its arguments made it so."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import attrs
import torch

from ..errors import CaptureError, Problem
from .messages import tensor_text

LIMIT = 256  # a run does not end for its lengths; Dynamo's own limit is 8, over all models of a process
MANY = 8
SHOWN = 4
MODE = "the mode"  # beside the names of arguments
UNSEEN = "nothing of its arguments"
_log = logging.getLogger("autosp")


@attrs.define
class Compiles:
    """The calls of a model that were compiled, each by what its arguments were. logs: whether this rank says so."""

    model: str
    logs: bool = True
    calls: list[dict[str, str]] = attrs.Factory(list)
    warned: bool = False

    def note(self, inputs: Mapping[str, Any], training: bool) -> None:
        """One more call was compiled: a line in the log of "autosp" says why, of all but the first."""
        now = described(inputs, training)
        if self.calls and self.logs:
            _log.warning("autosp: %s", again(self.model, self.calls, now))
        self.calls.append(now)
        if len(self.calls) > MANY and not self.warned:
            self.warned = True
            warnings.warn(f"autosp: {often(self.model, self.calls)}", stacklevel=6)

    def too_many(self, inputs: Mapping[str, Any], training: bool, limit: int) -> CaptureError:
        """Dynamo compiles no further."""
        changed = changes([*self.calls, described(inputs, training)])
        return CaptureError(too_many(self.model, len(self.calls), limit, changed))


def described(inputs: Mapping[str, Any], training: bool) -> dict[str, str]:
    """What a program is compiled for, by argument."""
    return {MODE: "training" if training else "evaluation"} | {n: _text(x) for n, x in inputs.items()}


def _text(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return tensor_text(value)
    return repr(value) if isinstance(value, (bool, int, float, str, type(None))) else type(value).__name__


def changes(calls: list[dict[str, str]]) -> list[str]:
    """The arguments that were not always the same, the most varied first, each with what it was of late."""
    names = dict.fromkeys(name for call in calls for name in call)
    seen = {n: list(dict.fromkeys(call.get(n, "not given") for call in calls)) for n in names}
    varied = sorted((n for n in seen if len(seen[n]) > 1), key=lambda n: -len(seen[n]))
    return [
        f"{_name(n)} was {', '.join(seen[n][-SHOWN:])}" + (f" ({len(seen[n])} in all)" if len(seen[n]) > SHOWN else "")
        for n in varied
    ]


def again(model: str, calls: list[dict[str, str]], now: dict[str, str]) -> str:
    """A model is compiled once more."""
    names = dict.fromkeys(name for call in (*calls, now) for name in call)
    new = [n for n in names if now.get(n, "not given") not in {call.get(n, "not given") for call in calls}]
    last = calls[-1]
    shown = new or [n for n in names if now.get(n) != last.get(n)]
    why = "; ".join(f"{_name(n)} was {last.get(n, 'not given')} and is {now.get(n, 'not given')}" for n in shown)
    unseen = f"{UNSEEN}; TORCH_LOGS=recompiles names what it was that changed"
    return f"{model} is compiled for the {ordinal(len(calls) + 1)} time: {why or unseen}"


def _name(argument: str) -> str:
    return argument if argument == MODE else repr(argument)


def ordinal(n: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, ..."""
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def often(model: str, calls: list[dict[str, str]]) -> str:
    """A model is compiled again and again."""
    differences = "; ".join(changes(calls)) or UNSEEN
    return f"{model} was compiled {len(calls)} times. What changed: {differences}"


def too_many(model: str, made: int, limit: int, changed: list[str]) -> Problem:
    """A model of which there are `made` programs was compiled as often as Dynamo allows."""
    differences = "; ".join(changed) or "nothing of its own arguments: other models of this process were"
    return Problem(
        what=f"{model} was compiled {made} times, and is called with something else again. What changed: {differences}",
        rule=f"a value that a program is compiled for makes a new one, at most {limit} of them "
        "(torch._dynamo.config.recompile_limit and accumulated_recompile_limit, of all models together)",
        fix="give a number that changes as a tensor (torch.tensor(x)); for lengths leave dynamic out of "
        "autosp.compile, or pad to a few; or raise both limits: torch._dynamo.config.recompile_limit = "
        f"torch._dynamo.config.accumulated_recompile_limit = {4 * limit}",
        where="autosp.compile",
    )
