"""A policy that is given in code, in the words that a spec has for it."""

from __future__ import annotations

from ..errors import Problem, SpecError, did_you_mean
from ..syntax.source import Source
from .spec import Spec
from .statements import read_statement
from .values import Recompute

MODES = ("none", "sac", "full")


def as_recompute(said: Recompute | str | None, spec: Spec | None, where: str) -> Recompute:
    """What is recomputed: as said, `"sac budget auto"` or `"recompute sac budget auto"`; None takes the spec's.

    Raises SpecError, at `where`, for text that says nothing of the kind.
    """
    if said is None:
        return Recompute() if spec is None else spec.recompute
    if isinstance(said, Recompute):
        return said
    words = said.split()
    words = words[1:] if words[:1] == ["recompute"] else words
    if not words or words[0] not in MODES:
        raise SpecError(_no_mode(said, where))
    text = " ".join(["recompute", *words])
    return read_statement(Source(where, text), 0, len(text)).value


def _no_mode(said: str, where: str) -> Problem:
    first = said.split()[0] if said.split() else ""
    return Problem(
        what=f"'{said}' does not say what is recomputed",
        rule="recompute is none, sac, sac budget SIZE (20GiB, 0.5 of what none keeps, auto), or full",
        fix=did_you_mean(first, MODES, "use 'sac budget auto'"),
        where=where,
    )
