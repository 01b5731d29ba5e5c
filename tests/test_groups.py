"""Under `pytest -n 2` tests that launch processes run in one process: another would start each launch again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest
from tests.conftest import group_of

ROOT = Path(__file__).parents[1]


def test_launches_are_one_group_and_fast_files_one_each():
    assert group_of("tests/engine/test_calls.py::test_a") == group_of("tests/execute/test_data.py::test_b[x@y]")
    assert group_of("tests/spec/test_sample.py::test_c") == "tests/spec/test_sample.py"


def test_what_markers_name_is_there():
    named = {*conftest.FAST, *conftest.UNIT, *conftest.MORE}
    assert [each for each in named if not (conftest.TESTS / each).exists()] == []


def test_workers_get_whole_groups():
    """As pytest and pytest-xdist of today hand them out."""
    pytest.importorskip("xdist")
    files = ("tests/execute/test_reference.py", "tests/sharding/test_placement.py", "tests/spec/test_sample.py")
    command = [sys.executable, "-m", "pytest", "-v", "-n", "2", "-p", "no:cacheprovider", *files]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout
    ran = re.findall(r"^\[(gw\d)\].* PASSED (\S+?)::", said.stdout, re.MULTILINE)
    workers = {file: {worker for worker, where in ran if where == file} for file in files}
    assert all(len(found) == 1 for found in workers.values()), workers


def test_a_run_of_no_file_in_particular_goes_over_the_cores(tmp_path: Path):
    """And one of a file does not; nor does `-n 0`."""
    pytest.importorskip("xdist")
    (tmp_path / "checks").mkdir()
    (tmp_path / "pytest.ini").write_text(f"[pytest]\ntestpaths = checks\npythonpath = {ROOT}\n")
    (tmp_path / "checks" / "conftest.py").write_text("from tests.conftest import pytest_cmdline_main\n")
    (tmp_path / "checks" / "test_one.py").write_text(
        "def test_one(request): print(hasattr(request.config, 'workerinput'))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    ran = {}
    for asked in ((), ("-n", "0"), ("checks/test_one.py",)):
        command = [sys.executable, "-m", "pytest", "-rP", "--import-mode=importlib", "-p", "no:cacheprovider", *asked]
        said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert said.returncode == 0, said.stdout + said.stderr
        ran[asked] = re.search(r"^(True|False)$", said.stdout, re.MULTILINE)[0] == "True"
    assert ran == {(): True, ("-n", "0"): False, ("checks/test_one.py",): False}
