"""A third of the parity matrix, every row and every simulated column of it; and the page of the whole."""

from __future__ import annotations

import re

import pytest

from autosp.parity.messages import page as words_of
from tests.execute import families
from tests.execute.families import FAMILIES
from tests.execute.matrix import BY_TITLE, COLUMNS, PAGE, PEER, ROWS, not_there, simulate_row

SIMULATED = [column.title for column in COLUMNS if column.simulated]
ALIKE = ("sp 2", "sp 4", "dp 2 x sp 4", "no label", "accumulate", "right", "left")  # two traces serve them all
EACH = 3  # of the other simulated cases of a row


def _chosen() -> list[tuple[str, str]]:
    """Of every family what costs least, and a few other cases, other ones for the next row."""
    found, turn = [], 0
    for row in ROWS:
        there = [title for title in SIMULATED if not not_there(row, title)]
        alike = [title for title in there if title in ALIKE and row in FAMILIES]
        others = [title for title in there if title not in alike]
        chosen = {others[(turn + i) % len(others)] for i in range(EACH)}
        turn += EACH
        found += [(row, title) for title in there if title in alike or title in chosen]
    return found


CELLS = _chosen()


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell[0]}-{cell[1]}")
def test_a_cell_of_the_matrix_is_exact(cell: tuple[str, str], simulated: dict) -> None:
    verdict = simulated[cell[0]].result()[cell]
    assert verdict.exact, words_of(verdict)


def test_they_are_a_third_of_the_page_with_every_row_and_every_simulated_column():
    assert {row for row, _ in CELLS} == set(ROWS) and {title for _, title in CELLS} == set(SIMULATED)
    of_the_page = [(row, title) for row in ROWS for title in BY_TITLE if title != PEER and not not_there(row, title)]
    assert len(CELLS) >= len(of_the_page) / 3


def test_no_cell_of_the_page_is_empty_and_none_is_a_miss():
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[: len(ROWS) + 1]]
    assert table[0][1:] == list(BY_TITLE) and [row[0] for row in table[1:]] == ROWS
    for row in table[1:]:
        for title, cell in zip(table[0][1:], row[1:], strict=True):
            if title == PEER:
                assert cell
            elif not (cell.startswith("refused: ") or cell == f"({not_there(row[0], title)})"):
                assert re.fullmatch(r"[01]\.\d\d", cell) and float(cell) <= 1, f"{row[0]}, {title}: {cell}"


def test_a_family_that_is_one_spec_file_gets_a_row(monkeypatch: pytest.MonkeyPatch):
    found = families.unlisted([("LlamaForCausalLM",), (), ("OPTForCausalLM", "XGLMForCausalLM")], FAMILIES)
    assert found == ["OPTForCausalLM"]
    monkeypatch.setattr(families, "UNLISTED", found)
    verdict = simulate_row([("OPTForCausalLM", "sp 4")])["OPTForCausalLM", "sp 4"]
    assert verdict.exact, words_of(verdict)
