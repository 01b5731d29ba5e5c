"""Every shipped spec: read, canonical, chosen by its classes, and fitting their models."""

import importlib.util
from pathlib import Path

import pytest

from autosp import resources
from autosp.spec import check_model, for_class, format_text, load, parse
from autosp.spec.build import from_class

FAMILIES = resources.listing("models")
needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")


# Specs that include another one, written out: what each says is what it said as a text of its own.
DECODER = """\
family  {name}
match   {match}

mesh    [dp: local, sp]

input   input_ids       [batch@dp, seq@sp]
input   labels          [batch@dp, seq@sp]  optional
input   position_ids    [batch@dp, seq@sp]  optional
input   attention_mask  [batch@dp, seq]     optional
{inputs}
output  loss            []
output  logits          none
{outputs}
attention ulysses
{maps}
recompute sac budget auto
tile      loss auto
"""
PAIRS = "input token_type_ids [batch@dp, seq@sp] optional"
EXPERTS = {
    "outputs": "output aux_loss []\noutput router_logits none",
    "maps": "map model.layers.*.mlp.experts over seq",
}
WRITTEN_OUT = {
    "bert": ("BertForMaskedLM", {"inputs": PAIRS}),
    "falcon": ("FalconForCausalLM", {}),
    "gemma2": ("Gemma2ForCausalLM", {}),
    "gemma3": ("Gemma3ForCausalLM", {}),
    "gpt2": ("GPT2LMHeadModel", {"inputs": PAIRS}),
    "gpt_neox": ("GPTNeoXForCausalLM", {}),
    "llama": ("LlamaForCausalLM", {}),
    "mistral": ("MistralForCausalLM", {}),
    "mixtral": ("MixtralForCausalLM", EXPERTS),
    "olmo2": ("Olmo2ForCausalLM", {}),
    "phi3": ("Phi3ForCausalLM", {}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", EXPERTS),
    "starcoder2": ("Starcoder2ForCausalLM", {}),
}


def test_the_folder_is_the_list_and_no_family_has_gone():
    folder = Path(__file__).parents[2] / "specs" / "models"
    assert FAMILIES == tuple(sorted(path.stem for path in folder.iterdir()))
    assert {*WRITTEN_OUT, "causal_lm", "classification", "classification_pairs", "encoder_decoder"} <= set(FAMILIES)


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_spec_that_includes_another_says_what_it_says_written_out(name):
    match, parts = WRITTEN_OUT[name]
    text = DECODER.format(name=name, match=match, **{"inputs": "", "outputs": "", "maps": "", **parts})
    assert load(name) == parse(text)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_shipped_spec_is_canonical_and_short(name):
    text, spec = resources.read("models", name), load(name)
    assert format_text(text) == text
    assert spec.family == name
    assert text.count("\n") <= 22
    assert spec.attention == "ulysses"


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "causal_lm"])
def test_a_class_chooses_its_family(name):
    assert load(name).match
    assert all(for_class(each) == load(name) for each in load(name).match)


@needs_transformers
@pytest.mark.parametrize("name", FAMILIES)
def test_a_shipped_spec_fits_the_models_it_names(name):
    import torch

    from tests.models.tiny import build

    made = build if name.startswith("classification") else small  # a few of those have no default that can be built
    for each in load(name).match:
        with torch.device("meta"):
            model = made(each)
        assert check_model(load(name), model) == []
        assert {i.name for i in load(name).inputs if not i.optional} <= set(forward_names(model))


def small(class_name):
    """The class with its default configuration, cut to two layers where that can be said."""
    import transformers

    config = getattr(transformers, class_name).config_class()
    for field in ("num_hidden_layers", "n_layer"):
        if hasattr(config, field):
            setattr(config, field, 2)
    return getattr(transformers, class_name)(config)


def forward_names(model):
    from autosp.spec.model import parameters_of

    return parameters_of(model)[0]


@needs_transformers
def test_no_class_is_matched_twice():
    names = [each for name in FAMILIES for each in load(name).match]
    assert len(names) == len(set(names))
    assert callable(from_class)


@pytest.mark.parametrize("name", resources.listing("models"))
def test_a_shipped_spec_as_a_text_says_the_same(name: str):
    """What a user copies into code, and adds a line to."""
    text = resources.read("models", name)
    assert parse(text) == load(name)
    if "\ninclude " in text:
        assert [str(each) for each in parse(f"{text}tile loss 3\n").tile][-1:] == ["tile loss 3"]
