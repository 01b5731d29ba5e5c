"""Errors in four parts: where, what, the rule broken, the fix.

A stage collects every `Problem` it finds and raises them together; words are made here and
nowhere else, so that a test can hold the exact text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import attrs


@attrs.frozen
class Problem:
    """One thing that is wrong. `excerpt` is the offending source line with a caret under it."""

    what: str
    rule: str
    fix: str
    where: str = ""
    excerpt: str = ""

    def __str__(self) -> str:
        lines = [f"error: {self.what}"]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.excerpt:
            lines += [f"   {line}".rstrip() for line in self.excerpt.splitlines()]
        lines.append(f"   = rule: {self.rule}")
        lines.append(f"   = fix: {self.fix}")
        return "\n".join(lines)


class AutospError(Exception):
    """Base of every error that autosp raises for its users. `problems` holds each one."""

    def __init__(self, problems: Problem | Iterable[Problem]):
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        if not self.problems:
            raise AssertionError("an error without a problem")
        super().__init__("\n\n".join(map(str, self.problems)))

    def __reduce__(self):
        return type(self), (self.problems,)

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.problems))


class SpecError(AutospError, ValueError):
    """A spec, a layout or a rule file that cannot be read or does not fit its model."""


class InputError(AutospError, ValueError):
    """Inputs of a call that do not fit the spec (sizes, layouts, batches that differ by rank)."""


class CaptureError(AutospError, RuntimeError):
    """The model could not be captured as one graph."""


class RuleError(AutospError, ValueError):
    """An operator without a rule on a split value, or a rule that does not fit its operator."""


class PlanError(AutospError, ValueError):
    """No valid plan exists for this graph and spec."""


class StalePlanError(PlanError):
    """A saved plan was made for something else than what is compiled."""


class CheckError(AutospError, RuntimeError):
    """A lowered graph failed its own verification; nothing was run."""


class EngineError(AutospError, ValueError):
    """A mesh, a process group or a DeepSpeed configuration that cannot run the plan."""


class RankError(AutospError, RuntimeError):
    """Ranks that should agree (plan, collectives, batch) do not."""


def suggest(word: str, known: Iterable[str]) -> str | None:
    """The one of `known` that `word` most likely means, or None."""
    known = list(known)
    for other in known:
        if sorted(other) == sorted(word) or other.lower() == word.lower():
            return other
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """A fix: the likely word, or `otherwise`."""
    hit = suggest(word, known)
    return f"did you mean '{hit}'?" if hit else otherwise
