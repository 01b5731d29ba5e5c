"""Each misuse stops every rank before any collective, with the exact text, and quickly."""

from __future__ import annotations

import pytest

from autosp import errors as autosp_errors
from autosp.parity.launch import Outcome
from tests.engine import golden, misuse

RANKS = {name: (2, "tests.engine.misuse:meet") for name in misuse.CASES}


@pytest.mark.parametrize("name", RANKS)
def test_misuse_stops_every_rank_with_this_text(name: str, ranks: tuple[Outcome, ...]):
    golden.expect("misuse", name, said(ranks))
    for outcome in ranks:
        assert issubclass(getattr(autosp_errors, outcome.value.kind), autosp_errors.AutospError)
        assert outcome.value.collectives == 0 or (name in misuse.LAST and outcome.rank == 0)
        assert outcome.value.seconds < 20  # far below the time after which a collective gives up


def test_no_text_is_left_over():
    assert golden.names("misuse") == set(RANKS)


def said(outcomes: tuple[Outcome, ...]) -> str:
    """What the ranks said: once, where all said the same."""
    texts = [f"{o.value.kind}\n{o.value.text}" for o in outcomes]
    if len(set(texts)) == 1:
        return f"on every rank: {texts[0]}"
    return "\n".join(f"on rank {o.rank}: {text}" for o, text in zip(outcomes, texts, strict=True))
