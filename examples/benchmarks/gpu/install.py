"""The install of a machine without a network: its wheels collected where there is one, and the install rehearsed, from
their folder into a target folder on PYTHONPATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from autosp.compat.tested import ROWS

FLAGS = ("--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--disable-pip-version-check", "--quiet")
# What a bare Python can import of them; those that need torch are only looked up.
CODE = """
import importlib, importlib.metadata as m, sys
from pathlib import Path
site = Path(sys.argv[1])
for name in sys.argv[2:]:
    found = Path(importlib.import_module(name).__file__)
    assert found.is_relative_to(site), f"{name} comes from {found}"
print(" ".join(sorted(f"{d.metadata['Name']}=={d.version}" for d in m.distributions(path=[str(site)]))))
"""
IMPORTED = ("lark", "click", "hjson", "msgpack", "ninja")
# What a machine with Python 3.12, torch 2.11 and transformers 5.17 lacks, as tested with them.
ROW = next(row for row in ROWS if row.name == "gpu")
PYTHON = f"python{ROW.python}"
WHEELS = (
    "lark==1.3.1", f"highspy=={ROW.highspy}", "click==8.2.0", "hjson==3.1.0", "pydantic==2.12.5",
    "pydantic-core==2.41.5", "annotated-types", "typing-inspection", "py-cpuinfo", "msgpack", "ninja",
)  # fmt: skip
BUILT = (f"deepspeed=={ROW.deepspeed}",)  # a wheel of Python alone, of a source archive
PLATFORMS = (*(f"manylinux_2_{n}_x86_64" for n in (28, 27, 24, 17)), "manylinux2014_x86_64", "manylinux1_x86_64")
TARGET = ("--only-binary=:all:", "--python-version", ROW.python, "--implementation", "cp")


def python() -> str | None:
    """A Python of the row that starts."""
    if ROW.python == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = shutil.which(PYTHON)
    if found is None:
        return None
    env = {**os.environ, "PYENV_VERSION": ROW.python}  # pyenv's command of that name starts none otherwise
    done = _run([found, "-c", "import sys; print(sys.executable)"], env=env)
    return done.stdout.strip() if done.returncode == 0 else None


def collect(folder: Path) -> list[str]:
    """One wheel of each package that a GPU machine lacks, in `folder`; their names. Raises RuntimeError with pip's last
    lines where one cannot be had."""
    pip = [sys.executable, "-m", "pip"]
    wanted = ["--no-deps", "--quiet", "--disable-pip-version-check"]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    env = {**os.environ, "DS_BUILD_OPS": "0"}
    folder.mkdir(parents=True, exist_ok=True)
    for command in (
        ["download", *wanted, *TARGET, *platforms, "--dest", str(folder), *WHEELS],
        ["wheel", *wanted, "--no-build-isolation", "--wheel-dir", str(folder), *BUILT],
    ):
        done = _run([*pip, *command], env=env)
        if done.returncode:
            raise RuntimeError("\n".join((done.stderr or done.stdout).strip().splitlines()[-3:]))
    return sorted(wheel.name for wheel in folder.glob("*.whl"))


def rehearse(wheels: Path | None) -> dict[str, Any]:
    """What came of it: `left_out` with the reason, or what was installed."""
    found = python()
    if wheels is None or found is None:
        return {"left_out": "no folder of wheels was given" if wheels is None else f"there is no {PYTHON}"}
    with tempfile.TemporaryDirectory() as site:
        files = sorted(map(str, wheels.glob("*.whl")))
        done = _run([found, "-m", "pip", "install", *FLAGS, "--target", site, *files])
        if done.returncode == 0:
            env = {**os.environ, "PYTHONPATH": site}
            done = _run([found, "-c", CODE, site, *IMPORTED], env=env)
    if done.returncode:
        return {"failed": (done.stderr or done.stdout).strip().splitlines()[-3:]}
    return {"installed": done.stdout.split()}


def _run(command: list[str], env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, env=env)


def told(outcome: dict[str, Any]) -> str:
    if "installed" in outcome:
        return f"install: {len(outcome['installed'])} wheels without a network: {' '.join(outcome['installed'])}"
    return (
        f"install: left out, {outcome['left_out']}"
        if "left_out" in outcome
        else f"install: FAILED, {outcome['failed']}"
    )
