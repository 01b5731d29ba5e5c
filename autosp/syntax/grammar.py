"""The lark parsers, each built once, when it is first needed."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING

from .. import resources

if TYPE_CHECKING:
    from lark import Lark, Tree


@cache
def parser(grammar: str, start: str) -> Lark:
    """The LALR parser of `grammar/<grammar>.lark`; it may import from the other grammar files."""
    from lark import Lark

    return Lark(
        resources.read("grammar", grammar),
        parser="lalr",
        start=start,
        import_paths=[str(resources.folder("grammar"))],
        maybe_placeholders=False,
    )


@lru_cache(maxsize=4096)
def tree_of(grammar: str, start: str, text: str) -> Tree:
    """The tree of a text. Many texts are read again and again: a layout, a spec at every engine."""
    return parser(grammar, start).parse(text)
