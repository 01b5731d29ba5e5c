"""What a failure's text keeps, and that no page holds a path of one machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.execute.own_pass import figures
from tests.failures import without_paths

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("RuntimeError: /__w/p/build/R_0.cpp:61: a size is symbolic", "RuntimeError: a size is symbolic"),
        ("OSError: [Errno 2] No such file: '/home/me/x y.so'", "OSError: [Errno 2] No such file: 'x y.so'"),
        ("File /opt/env/torch/nn.py:12 in forward", "File nn.py:12 in forward"),
        ("see https://pytorch.org/docs/main/notes/extending.func.html", None),
        ("shapes (s16//2) and 2/3, a/b/c, and/or", None),
    ],
)
def test_paths_are_cut_and_words_are_kept(text: str, kept: str | None):
    assert without_paths(text) == (text if kept is None else kept)


def test_the_failure_of_another_pass_is_written_without_a_path():
    class Failed:
        error = "Traceback\n  File x\nRuntimeError: /__w/pytorch/build/aten/src/ATen/Register_0.cpp:61: symbolic\n"

    assert figures(None, None, (Failed(),)) == "fails: RuntimeError: symbolic"


@pytest.mark.parametrize("page", sorted(p.name for p in DOCS.iterdir() if p.suffix in (".md", ".json")))
def test_no_page_holds_a_place_where_pytorch_was_built(page: str):
    text = (DOCS / page).read_text(encoding="utf-8")
    assert not re.search(r"/__w/|/(?:[\w.-]+/)+[\w.-]+\.(?:cpp|cu|h)\b", text)
