"""Models of a few layers, that the search for the longest length begins with."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from autosp.engine.searching import depth, shallow
from tests.engine.tiny import Tiny


def llama(layers: int) -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(
            LlamaConfig(
                hidden_size=16, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2, vocab_size=32
            )
        )


def test_a_shallow_model_is_the_first_layers_on_the_same_tensors():
    model = llama(5)
    few = shallow(model, 2)
    assert (depth(model), depth(few)) == (5, 2)
    assert (model.config.num_hidden_layers, few.config.num_hidden_layers) == (5, 2)
    own = dict(model.named_parameters())
    assert all(own[name] is p for name, p in few.named_parameters())
    assert len(list(few.parameters())) == len(list(llama(2).parameters()))


def test_a_model_without_repeated_layers_has_no_depth():
    assert depth(Tiny()) == 0
