"""`autosp check`: whether spec files can be read and fit a model, before anything runs."""

from __future__ import annotations

import json
from typing import Any

import attrs
import click

from ..errors import AutospError, Problem, SpecError
from ..spec import Spec, load


def counted(number: int, noun: str) -> str:
    """`1 input`, `2 inputs`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def summary(spec: Spec) -> str:
    """What a good spec holds, in a few words."""
    mesh = ", ".join(map(str, spec.mesh))
    return f"{counted(len(spec.inputs), 'input')}, {counted(len(spec.outputs), 'output')}, mesh [{mesh}]"


def faults_of(spec: Spec, model: Any) -> list[Problem]:
    """The ways in which a spec does not fit a model, if one is given."""
    if model is None:
        return []
    from ..spec import check_model

    return check_model(spec, model)


@attrs.frozen
class Verdict:
    """What came of one file."""

    file: str
    spec: Spec | None
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        """The fields that a machine reads."""
        fields = {"file": self.file, "ok": self.ok, "problems": [attrs.asdict(p) for p in self.problems]}
        return fields if self.spec is None else {**fields, "spec": str(self.spec)}


def verdict(file: str, model: Any) -> Verdict:
    """Read one file and hold it against the model."""
    try:
        spec = load(file)
    except SpecError as error:
        return Verdict(file, None, error.problems)
    return Verdict(file, spec, tuple(faults_of(spec, model)))


def say(result: Verdict, model: Any) -> None:
    """One line for a good file; its errors on stderr otherwise."""
    if not result.ok:
        click.echo(str(AutospError(result.problems)), err=True)
    else:
        fits = f", fits {type(model).__name__}" if model is not None else ""
        click.echo(f"{result.file}: ok ({summary(result.spec)}{fits})")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--model", metavar="MODEL", help="A config.json, a transformers class, or pkg.mod:factory.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of results for a machine.")
def check(files: tuple[str, ...], model: str | None, as_json: bool) -> None:
    """Check spec files (or shipped specs, by name), alone or against a model."""
    built = None
    if model is not None:
        from ..spec.build import build_model

        built = build_model(model)
    results = [verdict(file, built) for file in files]
    if as_json:
        click.echo(json.dumps([result.as_json() for result in results], indent=2))
    else:
        for result in results:
            say(result, built)
    if not all(result.ok for result in results):
        raise SystemExit(1)
