"""What a GPU has to show, in one command: `python -m examples.benchmarks.gpu`, from the top of a checkout.

Parts run in order of worth, each in a process of its own with a time limit; each prints a line and writes JSON as it
ends. `--rehearse` runs every part on the CPU with tiny sizes; `--page FOLDER` writes docs/gpu.md from a run's results.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from . import install, page, sizes
from .runner import ROOT, environment, run

PAGE, DATA = ROOT / "docs" / "gpu.md", ROOT / "docs" / "gpu.json"


def _cells(rehearse: bool, only: tuple[str, ...], skip: tuple[str, ...]) -> list[sizes.Cell]:
    try:
        return sizes.chosen(sizes.rehearsed() if rehearse else sizes.real(), only, skip)
    except ValueError as e:
        raise click.UsageError(str(e)) from None


@click.command(help=__doc__)
@click.option("--rehearse", is_flag=True, help="Every part on the CPU, with tiny sizes.")
@click.option("--only", multiple=True, metavar="PART", help="These alone: a part (a to g, or its name), or b:128K.")
@click.option("--skip", multiple=True, metavar="PART", help="Not these.")
@click.option("--minutes", default=8.0, show_default=True, help="For all; what no longer fits is left out.")
@click.option("--results", type=click.Path(path_type=Path), help="A folder for the JSON; by default a new one.")
@click.option("--wheels", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Rehearse an install.")
@click.option("--collect", type=click.Path(file_okay=False, path_type=Path), help="Only fetch such wheels into it.")
@click.option("--page", "from_results", type=click.Path(exists=True, path_type=Path), help="Only write docs/gpu.md.")
def main(rehearse, only, skip, minutes, results, wheels, collect, from_results) -> None:
    if collect:
        click.echo("\n".join(_collected(collect)))
        return
    if from_results:
        DATA.write_text(page.without_folders((from_results / "run.json").read_text()))
        PAGE.write_text(page.written(json.loads(DATA.read_text())))
        return
    cells = _cells(rehearse, only, skip)
    place = "cpu" if rehearse else "cuda"
    about = _about(place)
    results = results or Path(tempfile.mkdtemp(prefix="autosp-gpu-"))
    results.mkdir(parents=True, exist_ok=True)
    results = results.resolve()
    click.echo(f"results: {results}")
    click.echo(f"{about['card']}: " + ", ".join(f"{name} {version}" for name, version in about["versions"].items()))
    whole = {
        "rehearsed": rehearse, "about": about, "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": _command(rehearse, only, skip, minutes),
    }  # fmt: skip
    begin, outcomes = time.monotonic(), []

    def write() -> None:
        told = whole | {"seconds": time.monotonic() - begin, "outcomes": outcomes}
        (results / "run.json").write_text(json.dumps(told, indent=1) + "\n")
        (results / "gpu.md").write_text(page.written(told))

    for outcome in run(cells, results, minutes, place, say=lambda line: click.echo(line)):
        outcomes.append(outcome)
        write()
    if rehearse:
        whole["install"] = install.rehearse(wheels)
        click.echo(install.told(whole["install"]))
    write()
    failed = [o for o in outcomes if "failed" in o]
    out = sum("left_out" in o for o in outcomes)
    click.echo(f"{len(outcomes)} parts, {len(failed)} failed, {out} left out, in {time.monotonic() - begin:.0f} s")
    sys.exit(bool(failed or "failed" in whole.get("install", {})))


def _collected(folder: Path) -> list[str]:
    try:
        return install.collect(folder)
    except RuntimeError as e:
        raise click.ClickException(f"a wheel could not be fetched: {e}") from None


def _command(rehearse: bool, only: tuple[str, ...], skip: tuple[str, ...], minutes: float) -> str:
    """The command without folders, which belong to a machine."""
    parts = [*(f"--only {each}" for each in only), *(f"--skip {each}" for each in skip)]
    return " ".join([page.COMMAND, *(["--rehearse"] if rehearse else []), *parts, f"--minutes {minutes:g}"])


def _about(place: str) -> dict:
    """The card and the releases, seen by a process that is gone: this one holds nothing of the card."""
    code = f"import json; from {__package__}.card import about; print(json.dumps(about({place!r})))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(place), cwd=ROOT
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise click.ClickException(f"no GPU can be used here ({last}): --rehearse runs every part on the CPU")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
