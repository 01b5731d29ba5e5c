"""Text to values: layouts, their grammar, and errors that point at the text."""

from .layout import ELLIPSIS, Dim, Layout, P, Part
from .read import as_layout, parse_layout
from .source import At, Source, problem_at

__all__ = [
    "ELLIPSIS",
    "At",
    "Dim",
    "Layout",
    "P",
    "Part",
    "Source",
    "as_layout",
    "parse_layout",
    "problem_at",
]
