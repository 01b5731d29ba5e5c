"""`autosp fmt`: spec files in canonical form."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import AutospError, SpecError
from ..spec import format_text
from ..spec.parser import read_file


def formatted(name: str) -> tuple[str, str]:
    """The text of a file, and its canonical form. Raises SpecError."""
    text = read_file(Path(name), name).text
    return text, format_text(text, name)


def report(name: str, changed: bool, check_only: bool) -> None:
    """One line about one file."""
    verb = "unchanged" if not changed else "would change" if check_only else "rewritten"
    click.echo(f"{name}: {verb}")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--check", "check_only", is_flag=True, help="Change nothing; exit 1 where a file would change.")
def fmt(files: tuple[str, ...], check_only: bool) -> None:
    """Rewrite spec files in canonical form. Comments and order stay."""
    problems, changes = [], 0
    for name in files:
        try:
            before, after = formatted(name)
        except AutospError as error:
            problems += error.problems
            continue
        changes += before != after
        report(name, before != after, check_only)
        if before != after and not check_only:
            Path(name).write_text(after, encoding="utf-8")
    if problems:
        raise SpecError(problems)
    if changes and check_only:
        raise SystemExit(1)
