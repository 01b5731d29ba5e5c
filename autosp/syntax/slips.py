"""Why a text could not be read, in words: common slips by name, the rest by what was expected."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import Problem, did_you_mean, suggest
from .grammar import parser, tree_of
from .slip_table import FORMS, LAYOUT_FORM, SLIPS, Slip
from .source import At, Source, problem_at

if TYPE_CHECKING:
    from lark import Lark
    from lark.exceptions import UnexpectedInput

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9][0-9A-Za-z_.]*|\.{2,}|->|\S", re.ASCII)
INSIDE = re.compile(r"\w+\Z", re.ASCII)  # a word that goes on where a text was cut
KINDS = {
    "NAME": "a name",
    "INT": "a whole number",
    "LAYOUT": "a layout such as [batch@dp, seq@sp]",
    "PATH": "a module path such as model.layers.*.mlp",
    "FILE": "the name of a spec file",
    "AMOUNT": "a size such as 20GiB or a fraction such as 0.5",
    "ELLIPSIS": "'...'",
    "UNNAMED": "'_'",
    "LSQB": "'['",
    "RSQB": "']'",
    "LPAR": "'('",
    "RPAR": "')'",
    "COMMA": "','",
    "AT": "'@'",
    "COLON": "':'",
    "EQUAL": "'='",
    "$END": "the end of the line",
}


def listed(names: list[str]) -> str:
    """`a, b or c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def choices(expected: frozenset[str]) -> list[str]:
    """The words of the language among what could have stood there."""
    return sorted(kind.lower() for kind in expected if kind not in KINDS)


def expected_text(expected: frozenset[str]) -> str:
    """What could have stood there, in words."""
    return listed([f"'{word}'" for word in choices(expected)] + sorted(KINDS[k] for k in expected if k in KINDS))


def first_word(text: str) -> str:
    """The first word of a text, or nothing."""
    word = WORD.search(text)
    return word[0] if word else ""


def last_word(text: str) -> str:
    """The last word of a text, or nothing."""
    words = WORD.findall(text)
    return words[-1] if words else ""


def form_of(before: str) -> str:
    """The rule that a text breaks where nothing more is known: its form."""
    form = FORMS.get(first_word(before))
    return f"the form is: {form}" if form else LAYOUT_FORM


def slip_message(slip: Slip, before: str, after: str) -> tuple[str, str, str]:
    """What, rule and fix of a slip, with the words that stand there."""
    names = {"found": first_word(after), "last": last_word(before), "keyword": first_word(before)}
    return slip.what.format(**names), slip.rule or form_of(before), slip.fix.format(**names)


def syntax_message(expected: frozenset[str], before: str, after: str) -> tuple[str, str, str]:
    """What, rule and fix for a text that stopped being readable between `before` and `after`."""
    word, hope = first_word(after), expected_text(expected)
    slip = next((slip for slip in SLIPS if slip.fits(expected, before, after)), None)
    if slip:
        return slip_message(slip, before, after)
    if "$END" in expected and not suggest(word, choices(expected)):
        return f"'{word}' after the end of the statement", form_of(before), "drop it, or begin a new line"
    what = f"'{word}' where {hope} belongs" if word else f"the statement ends where {hope} belongs"
    return what, form_of(before), did_you_mean(word, choices(expected), f"write {hope} there")


def expected_after(lark: Lark, before: str) -> frozenset[str]:
    """The kinds of word that can stand after `before`."""
    reading = lark.parse_interactive(before)
    reading.exhaust_lexer()
    return frozenset(map(str, reading.accepts()))


def stopped_at(lark: Lark, text: str, error: UnexpectedInput) -> int:
    """The offset of the word at which reading stopped: `outputs`, not the `s` after `output`."""
    token = getattr(error, "token", None)
    if token is not None and token.type == "$END":
        return len(text.rstrip())
    stop = error.pos_in_stream or 0
    inside = INSIDE.search(text, 0, stop) if re.match(r"\w", text[stop:], re.ASCII) else None
    return inside.start() if inside else stop


def inner_problem(source: Source, begin: int, end: int) -> Problem | None:
    """What is wrong in the layout that begins a text."""
    from lark.exceptions import UnexpectedInput

    try:
        tree_of("terms", "layout", source.text[begin:end])
    except UnexpectedInput as error:
        return syntax_problem(parser("terms", "layout"), source, begin, end, error)
    return None


def syntax_problem(lark: Lark, source: Source, begin: int, end: int, error: UnexpectedInput) -> Problem:
    """The problem of `source.text[begin:end]`, which `lark` could not read."""
    from lark.exceptions import UnexpectedInput as Unreadable

    text = source.text[begin:end]
    offset = stopped_at(lark, text, error)
    try:
        expected = expected_after(lark, text[:offset])
    except Unreadable:  # the word begins within a number: `0.93input`
        offset = error.pos_in_stream or 0
        expected = expected_after(lark, text[:offset])
    before, after = text[:offset], text[offset:]
    inner = inner_problem(source, begin + offset, end) if "LAYOUT" in expected and after[:1] == "[" else None
    if inner:
        return inner
    width = len(first_word(after)) or 1
    return problem_at(At(source, begin + offset, begin + offset + width), *syntax_message(expected, before, after))
