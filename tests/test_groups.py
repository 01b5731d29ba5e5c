"""Under `pytest -n 2` tests that launch processes run in one process: another would start each launch again."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import group_of

ROOT = Path(__file__).parents[1]


def test_launches_are_one_group_and_fast_files_one_each():
    assert group_of("tests/engine/test_calls.py::test_a") == group_of("tests/execute/test_data.py::test_b[x@y]")
    assert group_of("tests/spec/test_sample.py::test_c") == "tests/spec/test_sample.py"


def test_workers_get_whole_groups():
    """As pytest and pytest-xdist of today hand them out."""
    pytest.importorskip("xdist")
    files = ("tests/execute/test_reference.py", "tests/layout/test_placement.py", "tests/spec/test_sample.py")
    command = [sys.executable, "-m", "pytest", "-v", "-n", "2", "-p", "no:cacheprovider", *files]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout
    ran = re.findall(r"^\[(gw\d)\].* PASSED (\S+?)::", said.stdout, re.MULTILINE)
    workers = {file: {worker for worker, where in ran if where == file} for file in files}
    assert all(len(found) == 1 for found in workers.values()), workers
