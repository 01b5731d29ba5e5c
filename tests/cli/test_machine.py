"""`--json`: exactly one JSON value on stdout, whatever libraries and the user's own model print meanwhile."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOUD = '''
import ctypes, os, sys
import highspy
from tests.engine.tiny import Tiny

def make():
    """Prints by Python, by the C library (whose buffer is written when it likes) and by the descriptor itself."""
    print("loud python")
    ctypes.CDLL(None).puts(b"loud C")
    os.write(1, b"loud descriptor\\n")
    highspy.Highs()
    return Tiny()
'''
COMMANDS = {
    "check": ["check", "causal_lm", "--model", "loud:make", "--sp", "2", "--json"],
    "parity": ["parity", "--model", "loud:make", "--spec", "causal_lm", "--simulate", "--steps", "1", "--json"],
    "plan": ["plan", "--model", "loud:make", "--spec", "causal_lm", "--seq", "32", "--sp", "2", "--no-max", "--json"],
    "rules list": ["rules", "list", "--import", "loud", "--json"],
    "rules list --missing": ["rules", "list", "--missing", "--model", "loud:make", "--spec", "causal_lm", "--json"],
    "rules explain": ["rules", "explain", "--import", "loud", "aten.linear", "--json"],
    "rules verify": ["rules", "verify", "--import", "loud", "aten.tanh", "--json"],
}


ONE_PROCESS = """
import json, os, sys
from autosp.cli import main
from autosp.cli._machine import flush_c
for name, arguments in json.loads(sys.argv[1]).items():
    for number, ending in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}.{ending}", os.O_WRONLY | os.O_CREAT), number)
    try:
        main(arguments)
    except SystemExit as e:
        assert not e.code, (name, e.code)
    sys.stdout.flush(), sys.stderr.flush(), flush_c()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each command wrote to its stdout and stderr, by its descriptors; one process runs all."""
    path = tmp_path_factory.mktemp("loud")
    (path / "loud.py").write_text(LOUD)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    argv = [sys.executable, "-c", ONE_PROCESS, json.dumps(COMMANDS)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=path, env=env)
    assert done.returncode == 0, "\n".join(p.read_text() for p in path.glob("*.err"))
    return path


@pytest.mark.parametrize("name", COMMANDS)
def test_stdout_is_one_json_value(name: str, folder: Path):
    said = (folder / f"{name}.out").read_text()
    value = json.loads(said, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert value or name == "rules list --missing"
    if "loud:make" in COMMANDS[name]:
        assert all(f"loud {by}" in (folder / f"{name}.err").read_text() for by in ("python", "C", "descriptor"))


def test_every_command_with_json_is_tried():
    """By the uses of the option in the source."""
    used = {
        f"{path.stem} {node.name.rstrip('_')}" if path.stem == "rules" else path.stem
        for path in (ROOT / "autosp" / "cli").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and any("json_option" in ast.unparse(d) for d in node.decorator_list)
    }
    assert used and used <= set(COMMANDS)
    assert not [p for p in (ROOT / "autosp" / "cli").glob("[a-z]*.py") if '"--json"' in p.read_text()]
