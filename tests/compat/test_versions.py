"""The table of versions: what it makes of a run, and the page that is checked in."""

from __future__ import annotations

import re
import subprocess

import pytest

from autosp.compat.tested import LIBRARIES, ROWS
from tests import versions


def done(text: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess([], code, text, "")


def test_the_page_is_what_its_data_say():
    assert versions.PAGE.read_text() == versions.written(versions.outcomes())


def test_the_page_has_every_row_and_no_other_release():
    known = versions.outcomes()
    assert set(known) <= {row.name for row in ROWS}
    for row in ROWS:
        held = known[row.name].versions if row.name in known else {}
        wanted = {"python": row.python} | {name: getattr(row, name) for name in LIBRARIES}
        assert all(versions.fits(held[name], wanted[name]) for name in held)


def test_each_row_names_the_witness_of_its_tests():
    said = [line for line in versions.written({}).splitlines() if line.startswith("- ")]
    assert len(said) == len(ROWS) and all(re.search(r"; spmd_types [\d.]+\b", line) for line in said)


def test_a_row_that_was_not_run_says_so():
    (row,) = [line for line in versions.written({}).splitlines() if line.startswith("| newest ")]
    assert row.count("not run") == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("...\n==== 3 failed, 1184 passed, 2 deselected in 12.00s ====", "1,184 passed, 3 failed"),
        ("2 passed, 1 skipped, 1 error in 3s", "2 passed, 1 error, 1 skipped"),
        ("2 failed, 7 passed in 9.10s (0:00:09)\nwarnings.warn(at exit)", "7 passed, 2 failed"),
        ("ImportError: no torch", "failed: ImportError: no torch"),
    ],
)
def test_a_summary_counts_what_pytest_says(text: str, said: str):
    assert versions.summary(done(text)) == said


@pytest.mark.parametrize(
    ("held", "wanted", "same"),
    [("2.13.0+cpu", "2.13.0", True), ("3.11.7", "3.11", True), ("2.13.1", "2.13.0", False), ("3.110.1", "3.11", False)],
)
def test_a_build_fits_its_release(held: str, wanted: str, same: bool):
    assert versions.fits(held, wanted) is same
