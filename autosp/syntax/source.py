"""Texts, places in them, and problems that point at a place with a caret."""

from __future__ import annotations

import attrs

from ..errors import Problem

WIDEST = 160  # a longer line is shown as a window around the caret


@attrs.frozen(eq=False, repr=False)
class Source:
    """A text and the name that its errors give it."""

    name: str
    text: str

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both from 1."""
        before = self.text.rfind("\n", 0, offset)
        return self.text.count("\n", 0, offset) + 1, offset - before

    def where(self, offset: int) -> str:
        """`file:line:column`."""
        line, column = self.position(offset)
        return f"{self.name}:{line}:{column}"

    def excerpt(self, start: int, end: int) -> str:
        """The line that holds `start`, and carets under [start, end) as far as it reaches."""
        first = self.text.rfind("\n", 0, start) + 1
        last = self.text.find("\n", start)
        line = self.text[first : last if last >= 0 else len(self.text)]
        column, width = start - first, max(1, min(end, first + len(line)) - start)
        if len(line) > WIDEST:
            cut = max(0, column - WIDEST // 2)
            line, column = line[cut : cut + WIDEST], column - cut
            width = min(width, WIDEST - column) or 1
        return f"{printable(line)}\n{' ' * column}{'^' * width}"


def printable(line: str) -> str:
    """`line` with one space for each character that would not print as one column."""
    return "".join(c if c.isprintable() else " " for c in line)


@attrs.frozen(eq=False, repr=False)
class At:
    """The place of a value in its text: its main word, and each word of its layout in order."""

    source: Source
    start: int
    end: int
    spots: tuple[int, ...] = ()

    def spot(self, i: int, word: str) -> At:
        """The place of the layout's i-th word."""
        return At(self.source, self.spots[i], self.spots[i] + len(word)) if self.spots else self

    def __str__(self) -> str:
        return self.source.where(self.start)


def problem_at(at: At | None, what: str, rule: str, fix: str) -> Problem:
    """A problem that points at `at`, or at nothing for a value that no text holds."""
    if at is None:
        return Problem(what, rule, fix)
    return Problem(what, rule, fix, str(at), at.source.excerpt(at.start, at.end))
