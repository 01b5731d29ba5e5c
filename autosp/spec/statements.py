"""From text to statements: where each begins and ends, and the value that it states."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import attrs

from ..errors import SpecError
from ..syntax import At, Source, problem_at
from ..syntax.read import parse_text, read_layout, start_of, tokens_under
from . import messages
from .values import UNITS, Axis, Constraint, DimFact, Input, Map, Output, Recompute, Tile

if TYPE_CHECKING:
    from lark import Token, Tree

KEYWORDS = (
    "family",
    "match",
    "include",
    "mesh",
    "dim",
    "input",
    "output",
    "attention",
    "constrain",
    "map",
    "recompute",
    "tile",
    "offload",
    "reduce",
)
BEGINS = re.compile(rf"[ \t]*({'|'.join(KEYWORDS)})[ \t]+[A-Za-z\[]")
FIRST_WORD = re.compile(r"\S+?(?=[\s\[#:=]|$)|\S+")
AMOUNT = re.compile(r"([0-9.]+)(\w*)")


@attrs.frozen
class Statement:
    """One statement as read: its first word, its value, and its place."""

    keyword: str
    value: Any
    at: At


def goes_on(code: str, depth: int) -> bool:
    """Whether a statement goes on after a line of `code` that leaves `depth` brackets open."""
    return depth > 0 or code.rstrip().endswith(",")


def spans(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each statement: a line, and those it goes on in.

    It goes on while a bracket is open and after a comma, but not past an empty line or into one
    that begins a statement, so that a forgotten bracket spoils one statement only.
    """
    begin, depth, offset, end = -1, 0, 0, 0
    for line in text.split("\n"):
        code = line.partition("#")[0]
        if begin >= 0 and (BEGINS.match(code) or not line.strip()):
            yield begin, end
            begin, depth = -1, 0
        if code.strip():
            begin = offset + len(code) - len(code.lstrip()) if begin < 0 else begin
            end = offset + len(code.rstrip())
        depth = max(0, depth + sum(code.count(c) for c in "[(") - sum(code.count(c) for c in "])"))
        if begin >= 0 and code.strip() and not goes_on(code, depth):
            yield begin, end
            begin, depth = -1, 0
        offset += len(line) + 1
    if begin >= 0:
        yield begin, end


class Reader:
    """Builds the value of one statement's tree; `at` turns its tokens into places."""

    def __init__(self, source: Source, begin: int):
        self.source, self.begin = source, begin

    def at(self, token: Token, *others: Token) -> At:
        """The place of a token, with those of `others` as its spots."""
        start = self.begin + start_of(token)
        spots = tuple(self.begin + start_of(other) for other in others)
        return At(self.source, start, start + len(token), spots)

    def layout(self, name: Token, token: Token) -> dict[str, Any]:
        """The fields `layout` and `at` of a value called `name`."""
        start = self.begin + start_of(token)
        layout, spots = read_layout(self.source, start, start + len(token))
        return {"layout": layout, "at": attrs.evolve(self.at(name), spots=spots)}

    def fail(self, token: Token, message: messages.Message) -> SpecError:
        """The error of one token."""
        return SpecError(problem_at(self.at(token), *message))


def mesh_of(read: Reader, tree: Tree) -> tuple[Axis, ...]:
    axes = [tokens_under(axis) for axis in tree.children]
    return tuple(Axis(name.value, bool(local), at=read.at(name)) for name, *local in axes)


def fact_of(read: Reader, tree: Tree) -> DimFact:
    name, token = tokens_under(tree)
    if token.type == "NAME":
        return DimFact(name.value, axis=token.value, at=read.at(name, token))
    if int(token) == 0:
        raise read.fail(token, messages.dim_is_zero(name))
    return DimFact(name.value, size=int(token), at=read.at(name, token))


def input_of(read: Reader, tree: Tree) -> Input:
    name, layout, *optional = tokens_under(tree)
    return Input(name.value, optional=bool(optional), **read.layout(name, layout))


def output_of(read: Reader, tree: Tree) -> Output:
    name, token = tokens_under(tree)
    if token.type == "LAYOUT":
        return Output(name.value, **read.layout(name, token))
    return Output(name.value, mode=token.value, at=read.at(name))


def constraint_of(read: Reader, tree: Tree) -> Constraint:
    path, port, layout = tokens_under(tree)
    return Constraint(path.value, port.value, **read.layout(path, layout))


def map_of(read: Reader, tree: Tree) -> Map:
    path, over = tokens_under(tree)
    return Map(path.value, over.value, at=read.at(path, over))


def budget_of(read: Reader, token: Token) -> int | float | Literal["auto"]:
    """Bytes, a fraction or "auto"."""
    if token.type == "AUTO":
        return "auto"
    match = AMOUNT.fullmatch(token)
    assert match is not None, "the grammar's AMOUNT"
    number, unit = match.groups()
    if unit:
        count = int(Decimal(number) * UNITS[unit])
        if count < 1:
            raise read.fail(token, messages.no_bytes(token))
        return count
    if "." not in number:
        raise read.fail(token, messages.unitless(number))
    if not 0.0001 <= float(number) <= 1:
        raise read.fail(token, messages.bad_fraction(number))
    return float(number)


def recompute_of(read: Reader, tree: Tree) -> Recompute:
    mode, *budget = tokens_under(tree)
    return Recompute(mode.value, budget_of(read, budget[0]) if budget else None)


def tile_of(read: Reader, tree: Tree) -> Tile:
    what, mode = tokens_under(tree)
    if mode.type == "INT" and int(mode) == 0:
        raise read.fail(mode, messages.no_tiles(what))
    return Tile(what.value, int(mode) if mode.type == "INT" else mode.value, at=read.at(what))


def names_of(read: Reader, tree: Tree) -> tuple[str, ...]:
    return tuple(token.value for token in tokens_under(tree) if token.type == "NAME")


def word_of(read: Reader, tree: Tree) -> str:
    return tokens_under(tree)[0].value


MAKERS: dict[str, Callable[[Reader, Tree], Any]] = {
    "family": word_of,
    "match": names_of,
    "include": word_of,
    "mesh": mesh_of,
    "fact": fact_of,
    "input": input_of,
    "output": output_of,
    "attention": word_of,
    "constrain": constraint_of,
    "map": map_of,
    "recompute": recompute_of,
    "tile": tile_of,
    "offload": lambda read, tree: tokens_under(tree)[1].value,
    "reduce": names_of,
}


def first_word(source: Source, begin: int, end: int) -> str:
    """What the statement in `source.text[begin:end]` begins with; a statement is not empty."""
    match = FIRST_WORD.match(source.text, begin, end)
    assert match is not None
    return match[0]


def place_of(read: Reader, tree: Tree, keyword: str) -> At:
    """The place of a statement: its first word, with the names it lists as spots."""
    names = (t for t in tokens_under(tree) if getattr(t, "type", "") in ("NAME", "FILE"))
    return At(
        read.source,
        read.begin,
        read.begin + len(keyword),
        tuple(read.begin + start_of(token) for token in names),
    )


def read_statement(source: Source, begin: int, end: int) -> Statement:
    """The statement in `source.text[begin:end]`. Raises SpecError with every fault of it."""
    keyword = first_word(source, begin, end)
    if keyword not in KEYWORDS:
        at = At(source, begin, begin + len(keyword))
        raise SpecError(problem_at(at, *messages.no_statement(keyword, KEYWORDS)))
    tree = parse_text("spec", "statement", source, begin, end)
    read = Reader(source, begin)
    return Statement(keyword, MAKERS[tree.data](read, tree), place_of(read, tree, keyword))
