"""`autosp rules`: what is known of each operator, the proof of it, and what a model still lacks."""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import click

from ..errors import Problem, RuleError, did_you_mean
from ._machine import json_option, say_json


@click.group()
def rules() -> None:
    """Operators and how they may be split: list, explain, verify, add."""


def imported(ctx: click.Context, param: click.Parameter, names: tuple[str, ...]) -> None:
    """Import the modules that make custom operators, those of the working folder too."""
    if names and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise RuleError(
                Problem(
                    f"module '{name}' cannot be imported: {error}",
                    "--import names a Python module that registers operators",
                    "run the command where the module can be imported, or set PYTHONPATH",
                )
            ) from None


importing = click.option(
    "--import", "modules", multiple=True, metavar="MODULE", callback=imported, expose_value=False,
    help="A module that registers custom operators or rules; may be repeated.",
)  # fmt: skip


@rules.command("list")
@importing
@click.option("--missing", is_flag=True, help="Only what a model's graph still lacks, each with a draft rule.")
@click.option("--model", metavar="MODEL", help="A config.json, a transformers class, or pkg.mod:factory.")
@click.option("--spec", metavar="SPEC", help="The model's spec; its family's, where none is given.")
@json_option()
def list_(missing: bool, model: str | None, spec: str | None, as_json: bool) -> None:
    """One operator a line: what may be split, what is summed, what is whole."""
    from ..rules import default_rules
    from ..rules.messages import list_line

    book = default_rules()
    if missing:
        list_missing(model, spec, book, as_json)
        return
    if as_json:
        listed = [
            {"operator": n, "rules": [{"text": str(r), "where": r.where} for r in book.by_name[n]]}
            for n in book.names()
        ]
        say_json(listed)
        return
    for name in book.names():
        click.echo(list_line(name, book.by_name[name]))


def list_missing(model: str | None, spec: str | None, book: Any, as_json: bool) -> None:
    """What a model's graph lacks."""
    from ..solve.missing import gap_text

    if model is None:
        raise RuleError(
            Problem(
                "--missing without --model",
                "what is missing is known of a model's graph",
                "add --model CONFIG.json, --model HF-CLASS or --model pkg.mod:factory",
            )
        )
    gaps = missing_of(model, spec, book)
    if as_json:
        say_json([attrs.asdict(gap) for gap in gaps])
    elif gaps:
        click.echo("\n\n".join(map(gap_text, gaps)))
    else:
        click.echo(f"{model}: every operator has a rule")


def missing_of(name: str, spec_name: str | None, book: Any) -> list[Any]:
    """The gaps in the training graphs of a model, traced without computing anything."""
    from ..compat.torch import FakeTensorMode
    from ..engine.failures import as_raised
    from ..passes import global_graph
    from ..solve.missing import gaps
    from ..spec import for_class, load
    from ..spec.build import build_model
    from ..spec.sample import on_fakes, samples, switch_off_cache

    built = build_model(name)
    model, own_inputs = built if isinstance(built, tuple) else (built, None)
    spec = load(spec_name) if spec_name else for_class(type(model).__name__)
    switch_off_cache(model)
    model.train()
    by_operator: dict[str, Any] = {}
    for inputs in [own_inputs] if own_inputs is not None else samples(model, spec):
        mode = FakeTensorMode()
        inputs = on_fakes(model, inputs, mode)
        try:
            captured, _ = global_graph(model, inputs)
        except Exception as error:
            raise as_raised(error, model) from error
        for gap in gaps(captured, book, spec.maps):
            known = by_operator.get(gap.operator)
            by_operator[gap.operator] = gap if known is None or gap.calls > known.calls else known
    return list(by_operator.values())


@rules.command()
@importing
@click.argument("operator")
@json_option()
def explain(operator: str, as_json: bool) -> None:
    """An operator's rules, and on an example the layout of every tensor under each split."""
    from ..rules import default_rules
    from ..rules.messages import explain as page

    book = default_rules()
    pages = {name: page(book, name) for name in named(book, (operator,))}
    say_json(pages) if as_json else click.echo("\n\n".join(f"{n}\n{text}" for n, text in pages.items()))


@rules.command()
@importing
@click.argument("operators", nargs=-1)
@json_option()
@click.pass_context
def verify(ctx: click.Context, operators: tuple[str, ...], as_json: bool) -> None:
    """Run operators whole and in 2, 3 and 4 simulated shards, forward and backward, and compare."""
    from ..rules import default_rules
    from ..rules.call import resolve
    from ..rules.verify import verify as prove

    book = default_rules()
    names = named(book, operators) if operators else [n for n in book.names() if n.startswith("aten.") or resolve(n)]
    absent = [n for n in book.names() if not operators and n not in names]
    began, reports = time.perf_counter(), []
    for report in prove(book, names):
        reports.append(report)
        if not as_json:
            click.echo(report_text(report))
    seconds = time.perf_counter() - began
    if as_json:
        say_json({"operators": [record(r) for r in reports], "seconds": round(seconds, 3)})
    else:
        for name in absent:
            click.echo(f"absent  {name}  no operator of that name is loaded; name its module with --import")
        click.echo(total(reports, seconds))
    ctx.exit(0 if all(r.ok for r in reports) else 1)


@rules.command()
@importing
@click.argument("file", metavar="FILE")
def add(file: str) -> None:
    """Check a rule file, prove it where random calls can be made, and install it for every autosp."""
    from ..rules import RuleBook, default_rules, read
    from ..rules.user import against_schemas, folder, install
    from ..rules.verify import verify as prove

    path = Path(file)
    added = read(text_of(path), file)
    problems = list(against_schemas(added))
    if problems:
        raise RuleError(problems)
    others = [r for r in default_rules().rules if not r.where.startswith(f"{path.with_suffix('.rule').name}:")]
    names = list(dict.fromkeys(t for r in added if r.form is not None for t in r.targets))
    reports = list(prove(RuleBook((*added, *others)), names))
    for report in reports:
        click.echo(report_text(report) if report.called else f"unproved {report.name}  {report.failures[0]}")
    wrong = [r.name for r in reports if r.called and not r.ok]
    if wrong:
        raise RuleError(
            Problem(
                f"{', '.join(wrong)}: the rule is wrong, as the lines above show",
                "a rule is installed that gives the whole call's results under every split it allows",
                "correct the file and add it again; nothing was installed",
                file,
            )
        )
    known = (folder() / path.with_suffix(".rule").name).exists()
    click.echo(f"{'replaced' if known else 'installed'} {install(path)}")


def text_of(path: Path) -> str:
    """A rule file's text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise RuleError(
            Problem(
                f"'{path}' cannot be read: {reason}",
                "autosp rules add takes a file of rules",
                "name a file such as mylib.rule",
            )
        ) from None


def named(book: Any, names: tuple[str, ...]) -> list[str]:
    """The operators that the names stand for. Raises RuleError for a name of none."""
    from ..rules.messages import matching

    operators, unknown = matching(book, names)
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
    return operators


def report_text(report: Any) -> str:
    """A line for an operator, and one for each thing that is wrong with its rule."""
    if runs_whole(report):
        return f"whole   {report.name}"
    word = "proved" if report.ok else "WRONG"
    line = f"{word:7} {report.name}  {report.checks} checks  error {report.error:.1e}  {', '.join(report.splits)}"
    return "\n".join([line, *(f"          {failure}" for failure in report.failures)])


def runs_whole(report: Any) -> bool:
    """Whether the rules split nothing, so that there is nothing to prove."""
    return report.splits == ("whole",) or (report.ok and not report.checks)


def total(reports: list[Any], seconds: float) -> str:
    """The last line: counts, the largest error, the time."""
    whole = sum(map(runs_whole, reports))
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
        "whole": runs_whole(report),
        "calls": report.calls,
        "checks": report.checks,
        "splits": list(report.splits),
        "error": report.error,
        "failures": list(report.failures),
        "seconds": round(report.seconds, 4),
    }
