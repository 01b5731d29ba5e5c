"""`autosp check`: whether spec files can be read and fit a model, before anything runs."""

from __future__ import annotations

from typing import Any

import attrs
import click

from ..errors import AutospError, Problem, SpecError
from ..spec import Spec, load
from ._machine import json_option, say_json


def counted(number: int, noun: str) -> str:
    """`1 input`, `2 inputs`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def summary(spec: Spec) -> str:
    """What a good spec holds, in a few words."""
    mesh = ", ".join(map(str, spec.mesh))
    return f"{counted(len(spec.inputs), 'input')}, {counted(len(spec.outputs), 'output')}, mesh [{mesh}]"


def faults_of(spec: Spec, model: Any) -> tuple[list[Problem], list[str]]:
    """The ways in which a spec does not fit a model, if one is given; and what could not be decided."""
    if model is None:
        return [], []
    from ..spec import check_model

    problems = check_model(spec, model)
    if problems:
        return problems, []
    if not spec.maps:
        return [], []
    from ..engine.claims import check_maps

    return check_maps(spec, model)


def unplanned(spec: Spec, model: Any, sp: int, length: int) -> list[Problem]:
    """Why the model, on inputs of this length, cannot be split over `sp` ranks as the spec says.

    The model's tensors become fakes, in place.
    """
    from ..compat.torch import FakeTensorMode
    from ..engine.planning import planned
    from ..spec.sample import on_fakes, samples, switch_off_cache

    mode = FakeTensorMode()
    switch_off_cache(model)
    try:
        for inputs in samples(model, spec, {"batch": 2}, length):
            planned(model.train(), on_fakes(model, inputs, mode), spec, sp=sp)
    except AutospError as error:
        return list(error.problems)
    return []


@attrs.frozen
class FileCheck:
    """What came of one file."""

    file: str
    spec: Spec | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """The fields that a machine reads."""
        fields = {"file": self.file, "ok": self.ok, "problems": [attrs.asdict(p) for p in self.problems],
                  "notes": list(self.notes)}  # fmt: skip
        return fields if self.spec is None else {**fields, "spec": str(self.spec)}


def verdict(file: str, model: Any, sp: int | None = None, length: int = 0) -> FileCheck:
    """Read one file, hold it against the model, and plan that where a number of ranks is given."""
    try:
        spec = load(file)
    except SpecError as error:
        return FileCheck(file, None, error.problems)
    problems, notes = faults_of(spec, model)
    if sp and not problems:
        problems = unplanned(spec, model, sp, length)
    return FileCheck(file, spec, tuple(problems), tuple(notes))


def say(result: FileCheck, model: Any, sp: int | None) -> None:
    """One line for a good file; its errors on stderr otherwise."""
    if result.spec is None or not result.ok:
        click.echo(str(AutospError(result.problems)), err=True)
    else:
        fits = f", fits {type(model).__name__}" if model is not None else ""
        fits += f" on {counted(sp, 'rank')}" if sp else ""
        click.echo(f"{result.file}: ok ({summary(result.spec)}{fits})")
    for note in result.notes:
        click.echo(f"{result.file}: note: {note}")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--model", metavar="MODEL", help="A config.json, a transformers class, or pkg.mod:factory.")
@click.option("--sp", type=click.IntRange(min=1), metavar="P", help="Also plan the model split over P ranks.")
@click.option("--seq", default=256, show_default=True, help="The length of the sequences that --sp plans for.")
@json_option("Print a list of results for a machine.")
def check(files: tuple[str, ...], model: str | None, sp: int | None, seq: int, as_json: bool) -> None:
    """Check spec files (or shipped specs, by name), alone or against a model.

    With a model, every module that a `map` names runs whole and in shards on random data.
    """
    if sp and model is None:
        raise click.UsageError("--sp plans a model: give it with --model")
    results = []
    for file in files:
        built = None
        if model is not None:
            from ..spec.build import build_model

            built = build_model(model)
        results.append(verdict(file, built, sp, seq))
        if not as_json:
            say(results[-1], built, sp)
    if as_json:
        say_json([result.as_json() for result in results])
    if not all(result.ok for result in results):
        raise SystemExit(1)
