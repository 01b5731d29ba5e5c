"""Experts of transformers by the general spec, which maps nothing: found, proved, and exact."""

from __future__ import annotations

import pytest
import torch

from autosp.engine.claims import check_maps
from autosp.parity.judging import judge
from autosp.parity.messages import page
from autosp.parity.trial import Trial
from autosp.spec import for_class
from tests.execute import families
from tests.execute.families import EXPERTS

OTHERS = ("MixtralForCausalLM", "Qwen3MoeForCausalLM")  # whose own specs map them; here by the general one


@pytest.mark.parametrize("name", EXPERTS)
def test_a_class_that_no_spec_names_is_exact_padded_and_uneven(name: str):
    assert for_class(name).family == "causal_lm"
    trial = Trial(f"tests.execute.families:{name}", sp=3, lengths=(37,), mask="right", labels="prompt", steps=2)
    verdict = judge(trial, simulate=True)
    assert verdict.exact, page(verdict)


@pytest.mark.parametrize("name", OTHERS)
def test_the_maps_of_shipped_specs_are_proved_for_all_lengths(name: str):
    """By `autosp check`, on no weights; the graph with symbols has sizes among a mapped module's results."""
    with torch.device("meta"):
        model = getattr(families, name)()
    assert check_maps(for_class(name), model) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_class_with_a_spec_needs_no_map_either(name: str):
    """Their balance loss, over all tokens, is outside the experts and stays exact."""
    trial = Trial(f"tests.execute.families:{name}", spec="causal_lm", sp=4, labels="unequal", steps=2)
    verdict = judge(trial, simulate=True)
    assert verdict.exact, page(verdict)


@pytest.mark.slow
def test_real_ranks_serve_every_length_by_one_program_of_a_spec_that_maps():
    name, lengths = "tests.execute.families:MixtralForCausalLM", (32, 27)
    verdict = judge(Trial(name, lengths=lengths, steps=2, dynamic=True, backend="aot_eager"), simulate=False)
    assert verdict.exact, page(verdict)


@pytest.mark.slow
def test_real_ranks_trace_once_more_and_then_serve_every_length():
    """A DeviceMesh in 2 processes: the first length alone, and then all."""
    trial = Trial("tests.execute.families:GptOssForCausalLM", lengths=(32, 27, 40), mask="left", steps=3)
    verdict = judge(trial, simulate=False)
    assert verdict.exact, page(verdict)
