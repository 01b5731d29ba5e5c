"""`python -m tests.versions`: the demo and the fast tests on every set of releases in `autosp/compat/tested.py`.

Each row gets a virtual environment of its own, or the one that `--env` names, and a line of docs/versions.md, which
docs/versions.json holds for rows that are run one at a time.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attrs
import click

from autosp.compat.tested import LIBRARIES, ROWS, Releases
from tests.older import told

ROOT = Path(__file__).parents[1]
PAGE, DATA = ROOT / "docs" / "versions.md", ROOT / "docs" / "versions.json"
CONSTRAINTS = ROOT / "constraints.txt"
FAST = ("-m", "pytest", "-q", "-m", "fast", "-n", "2", "-p", "no:cacheprovider")
DEMO = ("-c", "from autosp.cli import main; main()", "demo")
EXACT = "the sharded run equals the unsharded one"
NOT_RUN = "not run"
SAYS = "import json, sys; from importlib.metadata import version as v; "


@attrs.frozen
class Outcome:
    """What came of a row. versions: what its environment held."""

    versions: dict[str, str]
    demo: str
    tests: str
    failed: list[str]
    minutes: int
    date: str


@click.command()
@click.option("--row", "name", type=click.Choice([row.name for row in ROWS]), help="this row alone")
@click.option("--env", type=click.Path(exists=True, path_type=Path), help="an environment that has the row's releases")
@click.option("--page", is_flag=True, help="only write the page again")
def main(name: str | None, env: Path | None, page: bool) -> None:
    if env and not name:
        raise click.UsageError("--env belongs to one --row")
    known = outcomes()
    for row in ROWS if not page else ():
        if name in (None, row.name):
            known[row.name] = run(row, env)
            DATA.write_text(json.dumps({n: attrs.asdict(known[n]) for n in known}, indent=2) + "\n")
    PAGE.write_text(written(known))
    sys.exit(any(name in (None, n) and (o.demo != "exact" or o.failed) for n, o in known.items()))


def outcomes() -> dict[str, Outcome]:
    """Of the rows that were run, by name."""
    return {name: Outcome(**said) for name, said in json.loads(DATA.read_text()).items()} if DATA.exists() else {}


def run(row: Releases, env: Path | None) -> Outcome:
    """A row's demo and fast tests, in `env` or in an environment made for it. Raises ValueError where `env`
    holds other releases than the row."""
    with tempfile.TemporaryDirectory() as folder:
        python = (env or installed(row, Path(folder))) / "bin" / "python"
        held = versions_in(python)
        wrong = [f"{n} {held[n]}" for n, v in {"python": row.python, **row.pins()}.items() if not fits(held[n], v)]
        if wrong:
            raise ValueError(f"row {row.name} is another one: {', '.join(wrong)}")
        return tried(python, held, Path(folder))


def tried(python: Path, held: dict[str, str], folder: Path) -> Outcome:
    began = time.monotonic()
    demo = call([str(python), *DEMO], folder)
    tests = call([str(python), *FAST], folder)
    return Outcome(
        versions={name: held[name] for name in ("python", *LIBRARIES)},
        demo="exact" if demo.returncode == 0 and EXACT in demo.stdout else f"failed: {last_line(demo)}",
        tests=summary(tests),
        failed=re.findall(r"^(?:FAILED|ERROR) (\S+)", tests.stdout, re.MULTILINE),
        minutes=round((time.monotonic() - began) / 60),
        date=datetime.date.today().isoformat(),
    )


def installed(row: Releases, folder: Path) -> Path:
    """A fresh environment with autosp, its tests and the row's releases."""
    executable = shutil.which(f"python{row.python}") or sys.executable
    env, pins = folder / "venv", folder / "pins.txt"
    pins.write_text("".join(f"{name}=={version}\n" for name, version in row.pins().items()))
    subprocess.run([executable, "-m", "venv", str(env)], check=True)
    held = CONSTRAINTS if row.name == "constraints" else pins
    pip = [str(env / "bin" / "python"), "-m", "pip", "install", "--quiet", "-e", f"{ROOT}[test]", "-c", str(held)]
    subprocess.run(pip, check=True, env=os.environ | {"PIP_CONSTRAINT": os.devnull})  # the row's alone
    return env


def versions_in(python: Path) -> dict[str, str]:
    """The releases that an environment holds, of Python and of every package that a row names."""
    names = sorted({name for row in ROWS for name in row.pins()})
    code = f"{SAYS}print(json.dumps({{n: v(n) for n in {names}}} | {{'python': sys.version.split()[0]}}))"
    return json.loads(subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout)


def fits(held: str, wanted: str) -> bool:
    """2.13.0+cpu is a build of 2.13.0; 3.11.7 is a 3.11."""
    public = held.split("+")[0]
    return public == wanted or public.startswith(f"{wanted}.")


def call(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A command on this checkout, with its compiled extensions in a folder of their own."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = os.environ | {
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
    }
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def summary(tests: subprocess.CompletedProcess[str]) -> str:
    """ "2,100 passed, 3 failed" of pytest's last count: warnings may follow it."""
    lines = [line for line in tests.stdout.splitlines() if re.search(r"\d+ (passed|failed|errors?)\b.* in ", line)]
    counts = dict(
        (word, f"{int(n):,}") for n, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", "".join(lines[-1:]))
    )
    order = ("passed", "failed", "error", "errors", "skipped")
    return ", ".join(f"{counts[word]} {word}" for word in order if word in counts) or f"failed: {last_line(tests)}"


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return ((done.stdout + done.stderr).strip().splitlines() or [f"exit status {done.returncode}"])[-1].strip(" =")


def written(known: dict[str, Outcome]) -> str:
    """The page."""
    lines = [
        "# Versions",
        "",
        "Written by `python -m tests.versions`: for each row a virtual environment, `autosp demo` in it (exact: its",
        "last line says that the sharded run equals the unsharded one), and the fast tests,",
        "`pytest -m fast -n 2`. The rows are those of `autosp/compat/tested.py`; their ends are",
        "pyproject.toml's bounds, and what a row does not name is the newest. The whole suite, slow tests too, runs on",
        "`constraints.txt`.",
        "",
        f"| row | Python | {' | '.join(LIBRARIES)} | demo | fast tests | minutes | date |",
        f"| --- | --- | {' | '.join('---' for _ in LIBRARIES)} | --- | --- | --- | --- |",
        *(line(row, known.get(row.name)) for row in ROWS),
        "",
        *(f"- {row.name}: {row.what}{also(row)}." for row in ROWS),
    ]
    lines += ["", "What older releases cannot do, or do otherwise (tests that are left out there):", "", *told()]
    failed = [f"- {name}: `{test}`" for name, outcome in known.items() for test in outcome.failed]
    return "\n".join([*lines, *(["", "Failed:", "", *failed] if failed else [])]) + "\n"


def line(row: Releases, outcome: Outcome | None) -> str:
    if outcome is None:
        cells = [row.python, *(getattr(row, name) for name in LIBRARIES), NOT_RUN, NOT_RUN, "", ""]
    else:
        held = [outcome.versions[name] for name in ("python", *LIBRARIES)]
        cells = [*held, outcome.demo, outcome.tests, str(outcome.minutes), outcome.date]
    return f"| {row.name} | {' | '.join(cells)} |"


def also(row: Releases) -> str:
    return "".join(f"; {name} {version}" for name, version in row.others.items())


if __name__ == "__main__":
    main()
