"""Every generated page of docs/ names its command, and `python -m tests.pages` knows all of them."""

import re

import pytest

from tests import pages


def test_the_pages_that_name_a_command_are_those_of_the_list():
    texts = {path.stem: path.read_text(encoding="utf-8") for path in pages.DOCS.glob("*.md")}
    found = {name: re.search(r"Written by `python -m ([\w.]+)", text) for name, text in texts.items()}
    assert {name: match[1] for name, match in found.items() if match} == {p.name: p.module for p in pages.PAGES}


def test_a_page_is_written_by_its_name(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(
        pages.subprocess,
        "run",
        lambda command, cwd: ran.append(command[1:]) or pages.subprocess.CompletedProcess(command, len(ran) - 1),
    )
    assert pages.main(["architecture", "operators"]) == 1
    assert ran == [["-m", "tests.architecture"], ["-m", "tests.operators"]]
    assert pages.main(["parity", "nothing"]) == 2 and len(ran) == 2
    assert capsys.readouterr().out == "not a page: nothing\n"


def test_without_a_name_each_is_listed(capsys):
    assert pages.main([]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in listed] == [f"docs/{each.name}.md" for each in pages.PAGES]


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_its_module_is_there(page):
    path = pages.ROOT.joinpath(*page.module.split("."))
    assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
