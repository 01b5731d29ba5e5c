"""Canonical text: of a spec as a value, and of a file with its comments and order kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

import attrs

from ..errors import Problem, SpecError
from ..syntax import Source
from .statements import Statement, read_statement, spans
from .values import Axis, Statements, default_reduce

KEYWORD_WIDTH = 7
GAP = "  "
COLUMNS = {"input": "port", "output": "port", "constrain": "module", "map": "module"}


@attrs.frozen
class Line:
    """One line to print: a statement in cells, or none (a comment of its own, or a blank line)."""

    cells: tuple[str, ...] = ()
    comment: str = ""

    @property
    def is_blank(self) -> bool:
        """Whether the line holds nothing."""
        return not self.cells and not self.comment


def mesh_text(mesh: Iterable[Axis]) -> str:
    """`[dp: local, sp]`."""
    return f"[{', '.join(map(str, mesh))}]"


def tail(value: Any) -> str:
    """The canonical statement of a value, less its first word."""
    return str(value).partition(" ")[2]


CELLS: dict[str, Callable[[Any], tuple[str, ...]]] = {
    "family": lambda name: (name,),
    "match": lambda names: (", ".join(names),),
    "include": lambda name: (name,),
    "mesh": lambda mesh: (mesh_text(mesh),),
    "dim": lambda fact: (tail(fact),),
    "input": lambda i: (i.name, str(i.layout), *(("optional",) if i.optional else ())),
    "output": lambda o: (o.name, o.mode if o.layout is None else str(o.layout)),
    "attention": lambda choice: (choice,),
    "constrain": lambda c: (c.module, f"{c.port:<6} {c.layout}"),
    "map": lambda m: (m.module, f"over {m.over}"),
    "recompute": lambda value: (tail(value),),
    "tile": lambda value: (tail(value),),
    "offload": lambda mode: (f"residual {mode}",),
    "reduce": lambda axes: (f"loss mean over [{', '.join(axes)}]",),
}


def row(keyword: str, value: Any, comment: str = "") -> Line:
    """The line of one statement."""
    return Line((keyword, *CELLS[keyword](value)), comment)


def widths(rows: Iterable[Line]) -> dict[tuple[str, int], int]:
    """How wide each column is: of the cells that another follows, and of all layouts of inputs, so
    that 'optional' stands to the right of each."""
    columns: dict[tuple[str, int], int] = {}
    for each in rows:
        for i, cell in enumerate(each.cells[1:] if each.cells[:1] == ("input",) else each.cells[1:-1]):
            key = (COLUMNS.get(each.cells[0], each.cells[0]), i)
            columns[key] = max(columns.get(key, 0), len(cell))
    return columns


def statement_text(cells: tuple[str, ...], keyword_width: int, column: dict[tuple[str, int], int]) -> str:
    """One statement, its cells in their columns."""
    keyword, *rest = cells
    kind = COLUMNS.get(keyword, keyword)
    padded = [f"{cell:<{column[kind, i]}}" for i, cell in enumerate(rest[:-1])]
    return f"{keyword:<{keyword_width}} {GAP.join([*padded, rest[-1]])}"


def block_lines(block: list[Line], column: dict[tuple[str, int], int]) -> Iterator[str]:
    """The lines of rows that no blank line parts: one keyword column, one comment column."""
    width = max([KEYWORD_WIDTH, *(len(each.cells[0]) for each in block if each.cells)])
    texts = [statement_text(each.cells, width, column) if each.cells else "" for each in block]
    aside = max((len(t) for t, each in zip(texts, block, strict=True) if t and each.comment), default=0)
    for text, each in zip(texts, block, strict=True):
        yield f"{text:<{aside}}{GAP}{each.comment}" if text and each.comment else text or each.comment


def rows_text(rows: list[Line]) -> str:
    """Rows as text, at most one blank line between blocks."""
    column = widths(rows)
    blocks = [list(group) for blank, group in groupby(rows, lambda r: r.is_blank) if not blank]
    return "\n".join("".join(f"{line}\n" for line in block_lines(block, column)) for block in blocks)


def blocks_of(spec: Statements) -> Iterator[list[Line]]:
    """The statements of a spec in canonical order, in blocks."""
    yield [
        *([row("family", spec.family)] if spec.family else []),
        *([row("match", spec.match)] if spec.match else []),
    ]
    yield [row("mesh", spec.mesh), *(row("dim", fact) for fact in spec.dims)]
    yield [row("input", each) for each in spec.inputs]
    yield [row("output", each) for each in spec.outputs]
    yield [row("attention", spec.attention)]
    yield [*(row("constrain", c) for c in spec.constraints), *(row("map", m) for m in spec.maps)]
    yield [
        row("recompute", spec.recompute),
        *(row("tile", each) for each in spec.tile),
        *([row("offload", spec.offload)] if spec.offload != "none" else []),
        *([row("reduce", spec.reduce)] if spec.reduce != default_reduce(spec.mesh) else []),
    ]


def spec_text(spec: Statements) -> str:
    """The canonical text of a spec; it parses to an equal one."""
    return rows_text([each for block in blocks_of(spec) for each in (*block, Line())])


def comment_of(line: str) -> str:
    """The comment of a line, with one space after its '#'s."""
    return line[line.index("#") :].rstrip() if "#" in line else ""


def read_all(source: Source) -> dict[int, tuple[int, Statement]]:
    """Per statement: first line -> (last line, the statement). Raises SpecError with every problem."""
    statements: dict[int, tuple[int, Statement]] = {}
    problems: list[Problem] = []
    for begin, end in spans(source.text):
        try:
            first, last = (source.text.count("\n", 0, offset) for offset in (begin, end))
            statements[first] = (last, read_statement(source, begin, end))
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return statements


def rows_of(source: Source) -> Iterator[Line]:
    """The rows of a text in its own order. A comment inside a statement moves above it."""
    statements, lines, i = read_all(source), source.text.split("\n"), 0
    while i < len(lines):
        if i not in statements:
            yield Line(comment=comment_of(lines[i]))
            i += 1
            continue
        last, statement = statements[i]
        yield from (Line(comment=c) for c in map(comment_of, lines[i:last]) if c)
        yield row(statement.keyword, statement.value, comment_of(lines[last]))
        i = last + 1


def format_text(text: str, filename: str = "<spec>") -> str:
    """`text` in canonical form, its order and its comments kept.

    Raises SpecError with every statement that cannot be read.
    """
    return rows_text(list(rows_of(Source(filename, text))))
