"""The install of a machine without a network, rehearsed: wheels of a folder into a target folder on PYTHONPATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PYTHON = "python3.12"
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
IMPORTED = ("lark", "click", "hjson", "pydantic")


def python() -> str | None:
    """A Python 3.12 that starts."""
    if sys.version_info[:2] == (3, 12):
        return sys.executable
    found = shutil.which(PYTHON)
    if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
        return found
    return None


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
