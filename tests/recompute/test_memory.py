"""The predicted peak against the one that a rank really has, by the allocator's events."""

from __future__ import annotations

import pytest

from autosp.spec import Tile
from tests.recompute.ranks import One, causal_lm, llama, one_rank, silent_group

SETTINGS = ("none", "sac", "sac budget 0.7", "full")


FAMILIES = {
    "llama": lambda: llama(layers=2, length=2048),
    "llama in tiles": lambda: llama(layers=2, length=2048),
    "gpt2": lambda: causal_lm("GPT2", n_embd=128, n_head=8, n_layer=3, n_positions=1024, embd_pdrop=0.0,
                              attn_pdrop=0.0, resid_pdrop=0.0, loss_type="ForCausalLM"),
    "gemma3": lambda: causal_lm("Gemma3Text", hidden_size=128, intermediate_size=352, num_attention_heads=8,
                                num_key_value_heads=4, head_dim=16, num_hidden_layers=3),
}  # fmt: skip


@pytest.fixture(scope="module")
def rank() -> One:
    with silent_group() as group:
        yield one_rank(*llama(layers=3), group)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_peak_is_the_measured_one(rank: One, setting: str) -> None:
    decision = rank.decide(setting)
    bytes_ = rank.measure(decision)
    assert decision.peak == pytest.approx(bytes_.peak, rel=0.02)
    assert sum(decision.saved.values()) == pytest.approx(bytes_.between, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model, setting",
    [("llama", "none"), ("llama", "sac"), ("llama in tiles", "sac"), ("gpt2", "sac"), ("gemma3", "full")],
)
def test_with_fused_kernels_the_peak_is_the_measured_one(model: str, setting: str) -> None:
    with silent_group() as group:
        rank = one_rank(*FAMILIES[model](), group, inner="inductor", tiles=(Tile("loss", 8),) * ("tiles" in model))
        decision = rank.decide(setting)
        bytes_ = rank.measure(decision)
    assert decision.peak == pytest.approx(bytes_.peak, rel=0.15)
    assert sum(decision.saved.values()) == pytest.approx(bytes_.between, rel=0.02)


def test_a_smaller_budget_holds_less_and_takes_longer(rank: One) -> None:
    found = [rank.decide(f"sac budget {x}") for x in ("1.0", "0.85", "0.7")]
    assert all(d.fits for d in found)
    assert [d.peak for d in found] == sorted((d.peak for d in found), reverse=True)
    assert [d.seconds for d in found] == sorted(d.seconds for d in found)


def test_what_cannot_fit_has_the_least_peak_and_says_so(rank: One) -> None:
    decision = rank.decide("sac budget 1MiB", limit=2**20)
    assert not decision.fits and decision.text == "the least peak: nothing fits"
    assert decision.peak <= rank.decide("full").peak


def test_where_all_fits_nothing_is_recomputed(rank: One) -> None:
    assert rank.decide("sac budget auto", limit=2**40).choice is None


def test_the_place_of_the_peak_is_in_the_users_code(rank: One) -> None:
    assert "modeling_llama.py" in rank.decide("sac").at or "loss_utils.py" in rank.decide("sac").at
