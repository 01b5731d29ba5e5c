"""The tutorials of docs/, run as a new user would: every file saved, every command's output compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

DOCS = Path(__file__).parents[1] / "docs"
COMMANDS = {"tutorial_operator.md": 9, "tutorial_family.md": 8}
AUTOSP = str(Path(sys.executable).with_name("autosp"))


@attrs.frozen
class Block:
    """A fenced block of the page: its language, the file it is saved as, its text."""

    language: str
    title: str
    text: str


def blocks(page: str) -> list[Block]:
    found = re.findall(r"^```(\w+)(?: title=(\S+))?\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    return [Block(*each) for each in found]


def commands_of(text: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output that it is to give."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def output_of(command: str, folder: Path) -> str:
    """What a command prints, both streams."""
    program, *rest = command.split()
    assert program == "autosp"
    environment = {**os.environ, "AUTOSP_RULES": str(folder / "rules"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([AUTOSP, *rest], cwd=folder, env=environment, capture_output=True, text=True)
    return done.stdout + done.stderr


def fits(output: str, wanted: str) -> bool:
    """Whether an output is the one wanted, in which '…' stands for anything."""
    pattern = ".*".join(re.escape(part) for part in wanted.strip().split("…"))
    return re.fullmatch(pattern, output.strip(), re.DOTALL) is not None


def test_every_tutorial_is_run():
    assert {path.name for path in DOCS.glob("tutorial_*.md")} == set(COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("page", COMMANDS)
def test_a_tutorial_is_true(page: str, tmp_path: Path):
    run = 0
    for block in blocks(page):
        if block.title:
            (tmp_path / block.title).write_text(block.text)
            continue
        assert block.language == "console", "a block is a file to save, or commands with their output"
        for command, wanted in commands_of(block.text):
            output = output_of(command, tmp_path)
            assert fits(output, wanted), f"$ {command}\n{output}"
            run += 1
    assert run == COMMANDS[page]


def test_dots_stand_for_anything_and_nothing_else():
    assert fits("a 12 b\nc", "a … b\nc\n") and not fits("a 12 b\nd", "a … b\nc") and not fits("ab", "a.")
