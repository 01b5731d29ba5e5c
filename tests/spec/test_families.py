"""Every shipped spec: read, canonical, chosen by its classes, and fitting their models."""

import importlib.util

import pytest

from autosp import resources
from autosp.spec import check_model, for_class, format_text, load
from autosp.spec.build import from_class

FAMILIES = (
    "bert",
    "causal_lm",
    "classification",
    "classification_pairs",
    "encoder_decoder",
    "falcon",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "mixtral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "starcoder2",
)
needs_transformers = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")


def test_the_list_is_whole():
    assert resources.listing("models") == FAMILIES


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
