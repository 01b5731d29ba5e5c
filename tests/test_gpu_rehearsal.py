"""The GPU run: rehearsed on the CPU to its last line, what goes wrong in it, its page, and its install."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from examples.benchmarks.gpu import __main__ as command
from examples.benchmarks.gpu import install, page, runner, sizes
from tests import expected

ROOT = Path(__file__).parents[1]
GOLDEN = expected.GOLDEN / "gpu"
COMMAND = (sys.executable, "-m", "examples.benchmarks.gpu")
WHEELS = "AUTOSP_GPU_WHEELS"  # a folder of the wheels that a GPU machine lacks

PLANTED = {
    "well": "def run(size, place, stem, tell):\n    return {'line': f\"{size['n']} on {place}\", 'n': size['n']}\n",
    "raises": "def run(size, place, stem, tell):\n    tell({'line': 'half'})\n    raise ValueError('planted')\n",
    "hangs": "import time\ndef run(size, place, stem, tell):\n    tell({'line': 'begun'})\n    time.sleep(600)\n",
}


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Parts of a package of their own, and a folder for what they write."""
    (tmp_path / "planted").mkdir()
    for name, text in PLANTED.items():
        (tmp_path / "planted" / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def cell(name: str, needs: float = 0.0) -> sizes.Cell:
    return sizes.Cell(name, "", needs, 3.0, {"n": 7}, package="planted")


def test_a_part_that_raises_or_hangs_is_reported_and_the_others_go_on(planted: Path):
    lines: list[str] = []
    cells = [cell("raises"), cell("hangs"), cell("well"), cell("well", needs=1e6)]
    found = list(runner.run(cells, planted, 5.0, "cpu", lines.append))
    assert [o.get("failed") for o in found] == ["exit status 1", "ended after its limit of 3 s", None, None]
    assert found[0]["last"][-1] == "ValueError: planted"
    assert [o.get("found", {}).get("line") for o in found] == ["half", "begun", "7 on cpu", None]
    assert found[3]["left_out"].endswith("and it takes about 1000000")
    assert lines[0] == "raises raises: FAILED, exit status 1: ValueError: planted; until then: half"
    assert lines[2].startswith("well well: 7 on cpu (")


def test_each_part_has_its_own_json(planted: Path):
    found = list(runner.run([cell("raises"), cell("well")], planted, 5.0, "cpu", lambda line: None))
    assert [json.loads(p.read_text()) for p in sorted(planted.glob("*.json"))] == found


def test_the_sizes_are_of_the_same_parts_in_the_same_order():
    """The rest of the lengths comes last, where minutes are left."""
    order = [c.part for c in sizes.real()[: -len(sizes.REST)]]
    assert list(dict.fromkeys(order)) == list(dict.fromkeys(c.part for c in sizes.rehearsed()))
    assert [sizes.LETTERS[part] for part in dict.fromkeys(order)] == list("abfcdeg")
    assert len({c.file for c in sizes.real()}) == len(sizes.real())
    keys = {c.part: set(c.size) for c in sizes.real()}
    assert all(keys[c.part] <= set(c.size) for c in sizes.rehearsed())


def test_parts_by_letter_and_by_name():
    kept = sizes.chosen(sizes.real(), only=("a", "flex"), skip=("e",))
    assert {c.part for c in kept} == {"parity"}


def test_the_page_of_a_made_up_run():
    run = json.loads((GOLDEN / "run.json").read_text())
    expected.expect("gpu/page.md", page.written(run))


def test_the_page_in_the_repository_is_that_of_its_json():
    data = ROOT / "docs" / "gpu.json"
    run = json.loads(data.read_text()) if data.exists() else None
    written = (ROOT / "docs" / "gpu.md").read_text()
    assert written == page.written(run)
    assert run is not None or "**Not measured.**" in written


def test_the_page_of_a_results_folder_names_no_folder_of_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = json.loads((GOLDEN / "run.json").read_text())
    run["outcomes"][2]["last"] = ["  File /a/some-where/lib/python3.12/torch/x.py, line 3: 5 GB/s and/or"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    for name in ("PAGE", "DATA"):
        monkeypatch.setattr(command, name, tmp_path / f"written.{name}")
    done = CliRunner().invoke(command.main, ["--page", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "`  File x.py, line 3: 5 GB/s and/or`" in (tmp_path / "written.PAGE").read_text()
    assert "some-where" not in (tmp_path / "written.DATA").read_text()


def test_an_unknown_part_is_refused():
    done = CliRunner().invoke(command.main, ["--only", "z"])
    assert done.exit_code == 2 and "no part 'z': one of a (parity), b (rank)" in done.output


@pytest.mark.slow
@pytest.mark.inductor
def test_every_part_is_rehearsed(tmp_path: Path):
    command = [*COMMAND, "--rehearse", "--minutes", "20", "--results", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    run = json.loads((tmp_path / "run.json").read_text())
    assert {o["name"] for o in run["outcomes"]} == set(sizes.PARTS.values())
    assert len(run["outcomes"]) == len(sizes.rehearsed())
    for outcome in run["outcomes"]:
        name = f"{outcome['name']} {outcome['cell']}"
        assert not {"failed", "left_out"} & set(outcome) and outcome["found"]["line"], name
        assert all(map(math.isfinite, numbers(outcome["found"]))), name
        assert not any("failed" in each for each in outcome["found"].values() if isinstance(each, dict)), name
    assert "**Not measured: a rehearsal on the CPU**" in (tmp_path / "gpu.md").read_text()
    cases = [c for o in run["outcomes"] for c in o["found"].get("cases", [])]
    assert len(cases) == 12 and all(c["exact"] for c in cases)
    saved = {o["found"]["setting"]: o["found"]["between"] for o in run["outcomes"] if o["name"] == "rank"}
    assert saved["checkpoint"] < saved["none"] and saved["sac"] < saved["deepspeed"] < saved["none"]


@pytest.mark.slow
def test_the_install_needs_no_network(tmp_path: Path):
    """Of wheels that `--collect` fetches, where there is one; else of the folder that the environment names."""
    if install.python() is None:
        pytest.skip(f"there is no {install.PYTHON}")
    wheels = Path(os.environ.get(WHEELS, tmp_path / "wheels"))
    if WHEELS not in os.environ:
        try:
            names = install.collect(wheels)
        except RuntimeError as error:
            if "No matching distribution" in str(error) or "Connection" in str(error):
                pytest.skip(f"no wheels can be fetched here: {error}")
            raise
        assert len(names) == len(install.WHEELS) + len(install.BUILT)
    found = install.rehearse(wheels)
    assert "installed" in found, found
    kept = {each.split("==")[0].replace("_", "-") for each in found["installed"]}
    assert kept == {each.split("==")[0] for each in (*install.WHEELS, *install.BUILT)}


def test_wheels_that_cannot_be_fetched_are_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(install, "WHEELS", ("autosp-no-such-package==0",))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    done = CliRunner().invoke(command.main, ["--collect", str(tmp_path / "wheels")])
    assert done.exit_code == 1
    assert "Error: a wheel could not be fetched: " in done.output and "autosp-no-such-package" in done.output


def numbers(value: object) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from numbers(each)
    elif isinstance(value, (int, float)):
        yield value
