"""`python -m tests.pages`: the pages of docs/ that commands write; `python -m tests.pages NAME ...` writes those anew.

A page that takes long is written from what a run found, row by row: its own command says with `--help` or in its
first lines how to run a part of it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@attrs.frozen
class Page:
    """A page that a module writes. takes: what it needs to be written whole."""

    name: str
    module: str
    takes: str

    @property
    def path(self) -> Path:
        return DOCS / f"{self.name}.md"

    @property
    def command(self) -> str:
        return f"python -m {self.module}"


PAGES = (
    Page("architecture", "tests.architecture", "seconds"),
    Page("operators", "tests.operators", "seconds"),
    Page("parity", "tests.execute.matrix", "hours; rows and columns by name: a part"),
    Page("models", "tests.models", "hours; --only: a part"),
    Page("versions", "tests.versions", "hours and a virtual environment a row; --row: one"),
    Page("gpu", "examples.benchmarks.gpu", "a GPU"),
)


def table() -> str:
    """What `python -m tests.pages` prints: a line a page."""
    rows = [(f"docs/{each.path.name}", each.command, each.takes) for each in PAGES]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def main(names: list[str]) -> int:
    """Runs the commands of the pages that are named; the worst of their exit codes."""
    known = {each.name: each for each in PAGES}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        print(f"not a page: {', '.join(unknown)}" if unknown else table())
        return 2 if unknown else 0
    return max(subprocess.run([sys.executable, "-m", known[name].module], cwd=ROOT).returncode for name in names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
