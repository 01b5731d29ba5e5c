"""Why a text could not be read, in words: common slips by name, the rest by what was expected.

A row of `SLIPS` says: where one of the words `expects` could have stood, text matching `before`
precedes and text matching `found` follows, this is what the writer meant. The first row that
fits is taken.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from ..errors import Problem
from .source import At, Source, problem_at

if TYPE_CHECKING:
    from lark.exceptions import UnexpectedInput

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*|[0-9][0-9A-Za-z_.]*|\.{2,}|->|[^\s]", re.ASCII)

KINDS = {
    "NAME": "a name", "INT": "a whole number", "LAYOUT": "a layout such as [batch@dp, seq@sp]",
    "PATH": "a module path such as model.layers.*.mlp", "FILE": "the name of a spec file",
    "BUDGET": "a size such as 20GiB or a fraction such as 0.5", "ELLIPSIS": "'...'",
    "LSQB": "'['", "RSQB": "']'", "LPAR": "'('", "RPAR": "')'", "COMMA": "','", "AT": "'@'",
    "COLON": "':'", "EQUAL": "'='", "$END": "the end of the line", "__ANON_0": "'budget'",
}


@attrs.frozen
class Slip:
    """One named slip: when it is meant, and what is said about it."""

    expects: str
    before: str
    found: str
    what: str
    rule: str
    fix: str

    def fits(self, expected: frozenset[str], before: str, after: str) -> bool:
        """Whether this is what went wrong between `before` and `after`."""
        return (
            self.expects in expected
            and re.search(self.before, before) is not None
            and re.match(self.found, after) is not None
        )


SLIPS: tuple[Slip, ...] = ()


def listed(names: list[str]) -> str:
    """`a, b or c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def expected_text(expected: frozenset[str]) -> str:
    """What could have stood there, in words."""
    return listed(sorted(KINDS.get(kind, f"'{kind.lower()}'") for kind in expected))


def stopped_at(error: UnexpectedInput, text: str) -> tuple[int, frozenset[str]]:
    """The offset in `text` where reading stopped, and the kinds of word that could stand there."""
    token = getattr(error, "token", None)
    expected = frozenset(map(str, getattr(error, "expected", None) or getattr(error, "allowed", ())))
    at_end = token is not None and token.type == "$END"
    return (len(text.rstrip()) if at_end else error.pos_in_stream), expected


def said(expected: frozenset[str], before: str, after: str) -> tuple[str, str, str]:
    """What, rule and fix for a text that stopped being readable between `before` and `after`."""
    for slip in SLIPS:
        if slip.fits(expected, before, after):
            return slip.what, slip.rule, slip.fix
    word = WORD.match(after)
    found = f"'{word[0]}'" if word else "the line ends"
    hope = expected_text(expected)
    return (f"{found} where {hope} belongs", "a statement is one line of known words", f"write {hope} there")


def syntax_problem(source: Source, begin: int, end: int, error: UnexpectedInput) -> Problem:
    """The problem of `source.text[begin:end]`, which could not be read."""
    text = source.text[begin:end]
    offset, expected = stopped_at(error, text)
    before, after = text[:offset], text[offset:]
    word = WORD.match(after)
    width = len(word[0]) if word else 1
    at = At(source, begin + offset, begin + offset + width)
    return problem_at(at, *said(expected, before, after))
