"""From text to trees, and to layouts: the lark tree of a layout as a value, and where each word of it stood."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from ..errors import Problem, SpecError
from . import messages
from .faults import Mark, layout_problems
from .grammar import parser, tree_of
from .layout import ELLIPSIS, Dim, Layout, Part
from .slips import syntax_problem
from .source import At, Source

if TYPE_CHECKING:
    from lark import Token, Tree

MARK_OF = {"NAME": "dim", "UNNAMED": "dim", "INT": "size", "ELLIPSIS": "ellipsis"}


def parse_text(grammar: str, start: str, source: Source, begin: int, end: int) -> Tree:
    """The tree of `source.text[begin:end]`, its offsets counted from `begin`.

    Raises SpecError with one problem that points at where reading stopped.
    """
    from lark.exceptions import UnexpectedInput

    try:
        return tree_of(grammar, start, source.text[begin:end])
    except UnexpectedInput as error:
        raise SpecError(syntax_problem(parser(grammar, start), source, begin, end, error)) from None


def tokens_under(tree: Tree) -> list[Token]:
    """The words right under a node whose grammar puts no nodes there."""
    return cast("list[Token]", tree.children)


def start_of(token: Token) -> int:
    """The offset of a word; one that was read from a text has it."""
    assert token.start_pos is not None
    return token.start_pos


def axes_of(trees: list[Tree]) -> tuple[str, ...]:
    """The axis names under an optional `axes` node."""
    return tuple(token.value for tree in trees for token in tokens_under(tree))


def part_of(tree: Tree) -> Part:
    """The value of a `part` node."""
    head, axes = tokens_under(tree)[0], cast("list[Tree]", tree.children[1:])
    if head.type == "INT":
        return Part(size=int(head), axes=axes_of(axes))
    return Part(name=head.value if head.type == "NAME" else None, axes=axes_of(axes))


def dim_of(tree: Tree) -> Dim:
    """The value of a `dim` node."""
    if getattr(tree.children[0], "type", None) == "ELLIPSIS":
        return ELLIPSIS
    return Dim(tuple(map(part_of, tree.children)))


def layout_of(tree: Tree) -> Layout:
    """The value of a `layout` node. Raises SpecError where it is faulty."""
    dims = [child for child in tree.children if child.data == "dim"]
    partial = [axes for child in tree.children if child.data == "partial" for axes in child.children]
    return Layout(tuple(map(dim_of, dims)), axes_of(partial))


def tokens_of(tree: Tree, axis: str = "axis") -> Iterator[tuple[str, Token]]:
    """Every word under a `layout` node with the kind of its mark, in reading order."""
    for child in tree.children:
        if hasattr(child, "children"):
            yield from tokens_of(cast("Tree", child), "sum" if child.data == "partial" else axis)
        else:
            token = cast("Token", child)
            yield (axis if tree.data == "axes" else MARK_OF[token.type]), token


class LayoutError(SpecError):
    """A layout that reads well and is faulty. `marks` are its words, and `at` says where they stood."""

    def __init__(self, problems: list[Problem], marks: tuple[Mark, ...] = (), at: At | None = None):
        super().__init__(problems)
        self.marks, self.at = marks, at


@lru_cache(maxsize=4096)
def good_layout(text: str) -> tuple[Layout, tuple[int, ...]] | None:
    """The layout that a text holds and the offsets of its words; None where anything is wrong."""
    try:
        tree = parse_text("terms", "layout", Source("", text), 0, len(text))
        return layout_of(tree), tuple(start_of(token) for _, token in tokens_of(tree))
    except SpecError:
        return None


def read_layout(source: Source, start: int, end: int) -> tuple[Layout, tuple[int, ...]]:
    """The layout in `source[start:end]` and the offsets of its words.

    Raises SpecError with every fault, each pointing at its word.
    """
    good = good_layout(source.text[start:end])
    if good is not None:
        return good[0], tuple(start + spot for spot in good[1])
    tokens = tuple(tokens_of(parse_text("terms", "layout", source, start, end)))
    at = At(source, start, end, tuple(start + start_of(token) for _, token in tokens))
    marks = tuple(Mark(kind, token.value) for kind, token in tokens)
    raise LayoutError(layout_problems(marks, at), marks, at)


def parse_layout(text: str, where: str = "") -> Layout:
    """The layout that `text` writes, such as `[batch@dp, seq@sp]`. `where` names it in errors.

    Raises SpecError: where it cannot be read, or an axis or a dim name occurs twice.
    """
    return read_layout(Source(where or "<layout>", text), 0, len(text))[0]


def as_layout(value: object, where: str = "") -> Layout:
    """A layout from text, from `P(...)` or from a Layout. Raises SpecError for anything else."""
    if isinstance(value, Layout):
        return value
    if isinstance(value, str):
        return parse_layout(value, where)
    raise SpecError(messages.not_a_layout(value))
