"""The sweep over every causal language model: its shrinker, a class of each outcome, its page."""

from __future__ import annotations

import datetime

import pytest
import torch

from tests.models.__main__ import main
from tests.models.one import Found, examine
from tests.models.page import page
from tests.models.tiny import build, class_names, covering, tiny_value

MODELS = ("LlamaForCausalLM", "JambaForCausalLM", "DeepseekV3ForCausalLM", "Gemma4ForCausalLM", "BartForCausalLM")


def test_a_size_is_never_raised_and_other_fields_are_left():
    assert tiny_value("hidden_size", 4096) == 64 and tiny_value("n_group", 1) == 1
    assert tiny_value("attention_dropout", 0.1) == 0.0 and tiny_value("rope_theta", 1e4) == 1e4
    assert tiny_value("head_dim", None) is None and tiny_value("tie_word_embeddings", True) is True


def test_layers_show_every_word_of_every_list():
    assert covering([["a", "a", "b", "a"], ["x", "y", "x", "x"]]) == {0, 1, 2}
    assert covering([["a"] * 5]) == {0, 1}


@pytest.mark.parametrize("name", MODELS)
def test_a_tiny_model_trains_and_every_weight_is_there(name: str):
    model = build(name)
    ids = torch.randint(1, 128, (2, 9), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, labels=ids).loss.backward()
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_class_is_exact_or_says_why_it_cannot_be_tried():
    found = examine("LlamaForCausalLM")
    assert (found.outcome, found.why) == ("exact", "") and 0 < found.used <= 1
    assert examine("Gemma4AssistantForCausalLM").outcome == "untried"


def test_a_run_cut_short_goes_on(tmp_path, capsys):
    results, out = tmp_path / "found.jsonl", tmp_path / "models.md"
    given = ["--only", "Gemma4Assistant", "--results", str(results), "--page", str(out)]
    assert main(given) == 0
    assert capsys.readouterr().out.startswith("untried  Gemma4AssistantForCausalLM")
    assert main(given) == 0
    assert capsys.readouterr().out == "" and not out.exists()
    assert len(results.read_text().splitlines()) == 1


def test_the_page_counts_and_names():
    found = [Found(n, "exact", used=0.25) for n in class_names()[:9]]
    found += [Found("AForCausalLM", "refused", "no rule | for 'x'"), Found("BForCausalLM", "untried", "no loss")]
    text = page(found, datetime.date(2026, 1, 2))
    assert (
        "**9 exact, 1 refused, 0 failed** of the 10 that a tiny model could be built for (90 % exact); 1 could not."
        in text
    )
    assert "| A | refused | no rule \\| for 'x' |" in text and "2026-01-02" in text
