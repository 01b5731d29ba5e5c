"""One list of tested releases: pyproject's bounds, constraints.txt, the warning and docs/versions.md agree with it."""

from __future__ import annotations

import re
import sys
import tomllib
import warnings
from importlib import metadata
from pathlib import Path

import pytest

from autosp.compat import tested

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
REQUIRED = [*PROJECT["dependencies"], *EXTRAS["demo"], *EXTRAS["test"]]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.fixture
def fresh():
    tested.warn_of_untested.cache_clear()
    yield
    tested.warn_of_untested.cache_clear()


@pytest.mark.parametrize("library", tested.LIBRARIES)
def test_bounds_are_the_ends_of_the_rows(library: str):
    low, high = tested.bounds(library)
    assert f"{library}>={low},<{high}" in REQUIRED


@pytest.mark.parametrize("library", sorted({name for row in tested.ROWS for name in row.others}))
def test_an_oldest_bound_is_one_that_a_row_has(library: str):
    (bound,) = [r.split(">=")[1] for r in REQUIRED if re.match(rf"{library}>=", r)]
    oldest = tested.release(tested.versions(library)[0])
    assert tested.release(bound) == oldest[: len(tested.release(bound))]
    assert not any(oldest[len(tested.release(bound)) :])


def test_pythons_are_those_of_the_rows():
    low, high = tested.bounds("python")
    assert PROJECT["requires-python"] == f">={low},<{high}"


def test_constraints_are_their_row():
    (row,) = [row for row in tested.ROWS if row.name == "constraints"]
    assert {name: pins()[name] for name in row.pins()} == row.pins()


def test_constraints_pin_all_that_autosp_needs_and_no_build_of_one_machine():
    extras = [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    needed = {re.split(r"[\[<>=]", r)[0] for r in [*PROJECT["dependencies"], *extras]} - {"autosp", "triton"}
    assert needed <= set(pins()) and not [v for v in pins().values() if "+" in v]


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("2.11.0", True),
        ("2.13.0+cpu", True),
        ("2.15.9", True),
        ("2.10.2", False),
        ("2.16.0a0+git1", False),
        ("3.0", False),
    ],
)
def test_what_counts_as_tested(version: str, known: bool):
    assert tested.is_tested("torch", version) is known


def test_a_release_outside_the_rows_is_warned_of_once(fresh: None, monkeypatch: pytest.MonkeyPatch):
    own = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "2.99.1" if name == "torch" else own(name))
    with pytest.warns(UserWarning, match=r"autosp was not tested with torch 2\.99\.1 \(tested: 2\.11 to 2\.15\)"):
        tested.warn_of_untested()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tested.warn_of_untested()


def test_only_what_is_in_use_is_looked_at(fresh: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metadata, "version", lambda name: "99.0")
    monkeypatch.delitem(sys.modules, "deepspeed", raising=False)
    assert "deepspeed" not in " ".join(tested.untested())
    monkeypatch.setitem(sys.modules, "deepspeed", object())
    assert "deepspeed 99.0 (tested: 0.19)" in list(tested.untested())


def test_this_environment_is_not_warned_of(fresh: None):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tested.warn_of_untested()
