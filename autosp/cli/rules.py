"""`autosp rules`: what is known of each operator, and the proof of it."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from ..errors import Problem, RuleError, did_you_mean


@click.group()
def rules() -> None:
    """Operators and how they may be split: list, explain, verify."""


@rules.command("list")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def list_(as_json: bool) -> None:
    """One operator a line: what may be split, what is summed, what is whole."""
    from ..rules import default_rules
    from ..rules.words import list_line

    book = default_rules()
    if as_json:
        listed = [
            {"operator": n, "rules": [{"text": str(r), "where": r.where} for r in book.by_name[n]]}
            for n in book.names()
        ]
        click.echo(json.dumps(listed, indent=2))
        return
    for name in book.names():
        click.echo(list_line(name, book.by_name[name]))


@rules.command()
@click.argument("operator")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def explain(operator: str, as_json: bool) -> None:
    """An operator's rules, and on an example the layout of every tensor under each split."""
    from ..rules import default_rules
    from ..rules.words import explain as page

    book = default_rules()
    pages = {name: page(book, name) for name in named(book, (operator,))}
    click.echo(json.dumps(pages, indent=2) if as_json else "\n\n".join(f"{n}\n{text}" for n, text in pages.items()))


@rules.command()
@click.argument("operators", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.pass_context
def verify(ctx: click.Context, operators: tuple[str, ...], as_json: bool) -> None:
    """Run operators whole and in 2, 3 and 4 simulated shards, forward and backward, and compare."""
    from ..rules import default_rules
    from ..rules.verify import verify as prove

    book = default_rules()
    names = named(book, operators) if operators else list(book.names())
    began, reports = time.perf_counter(), []
    for report in prove(book, names):
        reports.append(report)
        if not as_json:
            click.echo(report_text(report))
    seconds = time.perf_counter() - began
    if as_json:
        click.echo(json.dumps({"operators": [record(r) for r in reports], "seconds": round(seconds, 3)}, indent=2))
    else:
        click.echo(total(reports, seconds))
    ctx.exit(0 if all(r.ok for r in reports) else 1)


def named(book: Any, words: tuple[str, ...]) -> list[str]:
    """The operators that the words name. Raises RuleError for a word that names none."""
    from ..rules.words import matching

    found, unknown = matching(book, words)
    if unknown:
        short = {n.rsplit(".", 1)[0] for n in book.names()}
        raise RuleError(
            [
                Problem(
                    f"operator '{word}' has no rule",
                    "an operator is written namespace.name.overload, or namespace.name for all overloads",
                    did_you_mean(word, {*short, *book.names()}, "'autosp rules list' prints those that have one"),
                )
                for word in unknown
            ]
        )
    return found


def report_text(report: Any) -> str:
    """A line for an operator, and one for each thing that is wrong with its rule."""
    if report.splits == ("whole",):
        return f"whole   {report.name}"
    word = "proved" if report.ok else "WRONG"
    line = f"{word:7} {report.name}  {report.checks} checks  error {report.error:.1e}  {', '.join(report.splits)}"
    return "\n".join([line, *(f"          {failure}" for failure in report.failures)])


def total(reports: list[Any], seconds: float) -> str:
    """The last line: counts, the largest error, the time."""
    whole = sum(r.splits == ("whole",) for r in reports)
    wrong = sum(not r.ok for r in reports)
    worst = max((r.error for r in reports), default=0.0)
    checks = sum(r.checks for r in reports)
    return (
        f"{len(reports) - whole - wrong} operators proved, {whole} whole, {wrong} wrong; "
        f"{checks} checks, largest error {worst:.1e}, {seconds:.1f} s"
    )


def record(report: Any) -> dict[str, Any]:
    """A report for machines."""
    return {
        "operator": report.name,
        "ok": report.ok,
        "whole": report.splits == ("whole",),
        "calls": report.calls,
        "checks": report.checks,
        "splits": list(report.splits),
        "error": report.error,
        "failures": list(report.failures),
        "seconds": round(report.seconds, 4),
    }
