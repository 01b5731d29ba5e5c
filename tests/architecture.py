"""`python -m tests.architecture`: docs/architecture.md, from the docstrings of packages and passes and from the imports.

`python -m tests.architecture --imports [PACKAGE]` prints the import graph of the stages, or of one package's files, for
Mermaid to draw.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path

from autosp.passes import PASSES, Pass
from tests.imports import between_packages, graph, mermaid, reduced
from tests.test_imports import STAGES

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"

HEAD = """\
# Architecture

Written by `python -m tests.architecture` from the docstrings of the packages and of the passes.

## Stages

A module imports its own stage and those above it in this table (`tests/test_imports.py` holds it).

| stage | |
| --- | --- |
"""
IMPORTED = """
## Imports

An arrow goes from a stage to one that it imports; those are left out that follow from others. No two files import each
other, on whatever way. `python -m tests.architecture --imports solve` draws the files of one stage.

```mermaid
"""
FOLLOWED = """
## A layout's way

From the text of a spec to the collective (`tests/lower/test_layouts_way.py` follows one):

| | value | what it says |
| --- | --- | --- |
"""
WAY = (
    ("autosp.syntax.layout:Layout", "the text as a value: the axes of each dim, by its name"),
    ("autosp.capture.captured:Captured", "`layouts`: that of each input of the global graph"),
    (
        "autosp.solve.candidates:Region",
        "where in a value's dim a dim of the inputs is, and the axes that the spec gives it",
    ),
    (
        "autosp.solve.strategies:Strategy",
        "one way to run an operator on one axis: a placement of each operand and result",
    ),
    (
        "autosp.solve.assembly:OpSharding",
        "the chosen one: a sharding, a placement per axis, of each operand and result",
    ),
    ("autosp.solve.assembly:Change", "a value's two shardings where an operator's result and its reader differ"),
    (
        "autosp.lower.conversions:convert",
        "a call in a rank's graph for each hop of it, an axis each, with both placements",
    ),
    ("autosp.sharding.transitions:Transition", "the row of the two placements: what runs forward and backward"),
)
PASSED = """
## Passes

One frozen `Program` goes through one list, `autosp/passes/pipeline.py`: `autosp.compile` runs all of it, `autosp.plan`
up to `shard` and then, for one rank, the rest; `autosp.measure` looks at the very program that runs; `autosp parity
--simulate` runs every rank's up to `tile`. Nothing else orders passes. What runs is verified after the passes that say
so, on the graph that is handed to the compiler. `AUTOSP_DUMP=FOLDER` writes the program after each pass, with its
seconds and the number of its calls; `AUTOSP_SKIP=NAME,NAME` leaves optional ones out.

| | pass | does | verified by |
| --- | --- | --- | --- |
"""


def written() -> str:
    stages = [f"| `{name}` | {first_sentence(f'autosp.{name}')} |" for name in STAGES]
    rows = [row(number, each) for number, each in enumerate(PASSES, 1)]
    drawn = IMPORTED + stages_drawn() + "\n```\n"
    followed = FOLLOWED + "".join(hop(number, *each) for number, each in enumerate(WAY, 1))
    return (
        HEAD
        + "\n".join(stages)
        + "\n"
        + drawn
        + followed
        + PASSED
        + "\n".join(rows)
        + "\n"
        + "".join(map(example, PASSES))
    )


def stages_drawn() -> str:
    """The stages that each stage imports, for Mermaid."""
    edges = between_packages(graph())
    return mermaid(reduced({name: edges[name] & set(STAGES) for name in STAGES}), STAGES)


def files_drawn(package: str) -> str:
    """The files of a package that each of its files imports, for Mermaid."""
    edges = {name: others for name, others in graph().items() if name.startswith(f"autosp.{package}.")}
    short = {name: name.removeprefix(f"autosp.{package}.") for name in edges}
    own = {short[name]: frozenset(short[other] for other in others & edges.keys()) for name, others in edges.items()}
    return mermaid(reduced(own), sorted(own))


def first_sentence(module: str) -> str:
    return re.split(r"(?<=\.)\s", " ".join((inspect.getdoc(importlib.import_module(module)) or "").split()))[0]


def hop(number: int, where: str, says: str) -> str:
    module, name = where.split(":")
    assert hasattr(importlib.import_module(module), name), where
    return f"| {number} | `{module.replace('.', '/')}.py: {name}` | {says} |\n"


def row(number: int, each: Pass) -> str:
    name = f"`{each.name}`" + (" (optional)" if each.optional else "")
    by = f"`passes/verify.py: {each.verify.__name__}`" if each.verify else ""
    return f"| {number} | {name} | {' '.join(each.summary.split())} | {by} |"


def example(each: Pass) -> str:
    """What is before and after a pass, as its file says."""
    text = " ".join((inspect.getdoc(sys.modules[each.run.__module__]) or "").split())
    before = re.search(r"Before: (.*?) After: (.*)", text)
    return f"\n**{each.name}**\n\n- before: {before[1]}\n- after: {before[2]}\n" if before else ""


if __name__ == "__main__":
    if sys.argv[1:2] == ["--imports"]:
        print("\n".join(map(files_drawn, sys.argv[2:])) or stages_drawn())
    else:
        PAGE.write_text(written())
