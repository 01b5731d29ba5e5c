"""The index of docs/ lists every page, and links between pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autosp.spec import load

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]


def links(page: Path) -> list[str]:
    """The files that a page links to."""
    found = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    return [each for each in found if "://" not in each]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    assert [each for each in links(page) if not (page.parent / each).exists()] == []


def test_the_index_lists_every_page():
    listed = {Path(each).name for each in links(ROOT / "docs" / "README.md")}
    assert {page.name for page in PAGES} <= listed | {"README.md"}


def test_the_files_that_contributing_names_are_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = [each for each in re.findall(r"`([\w.]+/[\w./]*)`", text) if "NAME" not in each]
    assert len(named) > 25 and [each for each in named if not (ROOT / each).exists()] == []


def test_the_spec_that_contributing_shows_is_a_spec(tmp_path: Path):
    (shown,) = re.findall(r"^```spec\n(.*?)^```$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "opt.spec").write_text(shown)
    assert load(tmp_path / "opt.spec").match == ("OPTForCausalLM",)
