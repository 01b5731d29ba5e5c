"""`autosp plan`: where communication goes, what a rank holds, and the longest sequence that fits; no GPU is needed."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from ._machine import json_option, say_json


@click.command()
@click.option("--model", required=True, metavar="MODEL",
              help="llama-3.2-3b, llama-3.1-8b, llama-2-13b, a config.json or its folder, a transformers class, "
              "or pkg.mod:factory.")  # fmt: skip
@click.option(
    "--spec", metavar="SPEC", help="A file, or a shipped spec by name; by default chosen by the model's class."
)
@click.option("--sp", default=8, show_default=True, type=int, metavar="P", help="Ranks that share a sequence.")
@click.option("--dp", default=1, show_default=True, type=int, metavar="D", help="Groups, each with its own batch.")
@click.option("--seq", type=click.IntRange(1), metavar="N", help="Length; by default the longest that fits.")
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1), help="Rows of a group's batch.")
@click.option("--device", default="a100-80gb", show_default=True, help="A name in specs/devices, or a .device file.")
@click.option("--zero", default=1, show_default=True, type=int, help="ZeRO stage, 0 to 3.")
@click.option("--dtype", default="bf16", show_default=True, type=click.Choice(("bf16", "fp16", "fp32")))
@click.option("--optimizer", default="adamw", show_default=True,
              help="adamw, adam, lion, adagrad, momentum or sgd.")  # fmt: skip
@click.option("--recompute", metavar="POLICY", help='As in a spec: none, sac, "sac budget auto", full.')
@click.option("--max/--no-max", "search", default=True, help="With --seq: also look for the longest that fits.")
@click.option("--save", "file", metavar="FILE", help="Write the plan, for autosp.compile(..., plan=FILE) to run by.")
@json_option()
def plan(as_json: bool, seq: int | None, search: bool, file: str | None, **options: Any) -> None:
    """Plan a training step of MODEL on fake tensors: collectives, memory, and the longest sequence that fits.

    Exits with 1 where the length, or every length, does not fit.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    sys.path[:0] = [os.getcwd()] if os.getcwd() not in sys.path else []
    from ..engine.plan_file import refuse_unwritable
    from ..report import Report

    if file:
        refuse_unwritable(file)
    requested = ask(length=seq or 1024, **options)
    searched = search or seq is None
    longest = requested.longest() if searched else None
    shown = longest if longest and not seq else requested.plan()
    if file:
        shown.save(file)
    _say(Report(shown, longest, searched), as_json)
    if shown.memory is not None and not shown.fits:
        raise SystemExit(1)


def _say(report: Any, as_json: bool) -> None:
    if as_json:
        say_json(report.fields())
    elif sys.stdout.isatty():
        from rich.console import Console

        report.draw(Console())
    else:
        click.echo(report.text())


def ask(model: str, spec: str | None, batch: int, dtype: str, length: int, **options: Any) -> Any:
    """The request of a command line. Raises SpecError, PlanError and EngineError for what is wrong of it."""
    from ..engine.failures import placed
    from ..engine.planning import request
    from ..engine.resolve import resolve_spec
    from ..recompute.state import DTYPES
    from ..spec.presets import inputs_for, model_named

    with placed("--model"):
        module, own_inputs = model_named(model)
    chosen = resolve_spec(spec, module)
    inputs = own_inputs or inputs_for(module, chosen, batch, length)
    return request(module, inputs, chosen, dtype=DTYPES[dtype], **options)
