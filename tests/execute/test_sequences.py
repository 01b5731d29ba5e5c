"""Sequence classification, and encoders with decoders, by the shipped spec that the class alone chooses."""

from __future__ import annotations

import pytest
import torch

import autosp
from autosp.parity.judging import judge
from autosp.parity.messages import page
from autosp.parity.trial import Trial, batches, build
from autosp.spec import for_class, load
from tests.execute import sequences

CLASSIFYING = "classification", "classification_pairs"


def exact(name: str, simulate: bool = True, **fields) -> None:
    """Uneven lengths, padded, two steps: loss, parameters and gradients are plain eager PyTorch's."""
    fields = {"lengths": (13,), "mask": "right", "steps": 2, **fields}
    verdict = judge(Trial(f"tests.execute.sequences:{name}", **fields), simulate=simulate)
    assert verdict.exact, page(verdict)


@pytest.mark.parametrize("name", sequences.CLASSIFIERS)
def test_a_classifier_is_exact(name: str):
    assert for_class(name).family in CLASSIFYING
    exact(name, sp=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for spec in CLASSIFYING for name in load(spec).match][::6])
def test_a_class_that_is_named_is_exact(name: str):
    """Whatever its root and its head are called; tiny, and by the spec that its class chooses. Each sixth of them:
    whoever adds a name leaves out the step once."""
    verdict = judge(Trial(f"tests.models.tiny:{name}", lengths=(13,), mask="right", steps=1, sp=2), simulate=True)
    assert verdict.exact, page(verdict)


@pytest.mark.parametrize("name", ["regression", "several"])
def test_numbers_and_several_classes_a_row_are_exact(name: str):
    exact(name, sp=2)


@pytest.mark.parametrize("sp", [2, 3])
def test_t5_is_exact_where_the_decoder_has_another_length(sp: int):
    assert for_class("T5ForConditionalGeneration").family == "encoder_decoder"
    exact("T5ForConditionalGeneration", sp=sp, labels="prompt")


def test_a_decoder_with_its_own_ids_and_mask_is_exact():
    exact("both_given", sp=3)


def test_a_rank_without_a_query_passes_the_gradient_of_the_position_bias_on():
    exact("few", sp=3)


def test_bart_is_exact_over_data_parallel_groups():
    exact("BartForConditionalGeneration", sp=2, dp=2, steps=1)


def test_made_up_batches_have_what_the_spec_says():
    """A class a row whose padding has the padding's id; labels of the decoder's own length."""
    trial = Trial("tests.execute.sequences:LlamaForSequenceClassification", lengths=(13,), mask="right")
    batch = batches(trial, load("classification"), *build(trial))(0, 0, 0)
    assert batch["labels"].shape == (2,) and batch["labels"].max() < 3
    assert torch.equal(batch["input_ids"] != 0, batch["attention_mask"].bool())
    trial = Trial("tests.execute.sequences:T5ForConditionalGeneration", lengths=(13,), mask="right")
    batch = batches(trial, load("encoder_decoder"), *build(trial))(0, 0, 0)
    shapes = {name: tuple(x.shape) for name, x in batch.items()}
    assert shapes == {
        "input_ids": (2, 13),
        "attention_mask": (2, 13),
        "labels": (2, 9),
        "decoder_attention_mask": (2, 9),
    }


def test_both_lengths_of_t5_are_split():
    """Nothing but attention's keys is gathered: the loss is a sum over the decoder's shards."""
    model, inputs = sequences.both_given()
    plan = autosp.plan(model, inputs, sp=2, device="cpu")
    assert "sums over its split tgt" in plan.explain()
    gathered = [reshard for reshard in plan.reshards if reshard.kind == "all_gather"]
    assert all("Attention" in reshard.module for reshard in gathered)


@pytest.mark.slow
def test_real_ranks_serve_every_pair_of_lengths():
    """A DeviceMesh in 2 processes: the second pair of lengths compiles once more, and then all are served."""
    exact("T5ForConditionalGeneration", simulate=False, lengths=(32, 27, 40), mask="left", steps=3)
