"""Models by the names that people call them, and inputs for one: what `autosp plan` plans."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import Problem, SpecError, did_you_mean
from ..spec import Spec
from ..spec.build import build_model, from_config, transformers
from ..spec.sample import samples

# Configurations as published with the weights; what is not named has its class's default.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "llama-3.2-3b": {
        "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    },
    "llama-3.1-8b": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    },
    "llama-2-13b": {
        "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40,
        "num_key_value_heads": 40, "head_dim": 128, "vocab_size": 32000, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    },
}  # fmt: skip


def model_named(name: str) -> tuple[torch.nn.Module, dict[str, Any] | None]:
    """The model that a name means, on the meta device, and the inputs that its maker gives, if any.

    A preset, a folder with a config.json, a config.json, a transformers class, or `pkg.mod:factory`
    (which may return a pair of model and inputs). Raises SpecError where there is none.
    """
    if name in PRESETS:
        with torch.device("meta"):
            library = transformers()
            return library.LlamaForCausalLM(library.LlamaConfig(use_cache=False, **PRESETS[name])), None
    if (Path(name) / "config.json").is_file():
        with torch.device("meta"):
            return from_config(Path(name) / "config.json"), None
    if ":" not in name and not name.endswith(".json") and not hasattr(transformers(), name):
        raise SpecError(_no_model(name))
    made = build_model(name)
    return made if isinstance(made, tuple) else (made, None)


def inputs_for(model: torch.nn.Module, spec: Spec, batch: int, length: int) -> dict[str, torch.Tensor]:
    """A batch of what the forward must have of the spec's inputs, on the meta device, of zeros."""
    with torch.device("meta"):
        return next(samples(model, spec, {"batch": batch}, length))


def _no_model(name: str) -> Problem:
    classes = [n for n in dir(transformers()) if n.endswith(("LMHeadModel", "ForCausalLM", "ForMaskedLM"))]
    otherwise = (
        "give for example llama-3.1-8b, LlamaForCausalLM, path/to/config.json or my_package.my_module:make_model"
    )
    return Problem(
        what=f"no model '{name}'",
        rule=f"a model is one of {', '.join(PRESETS)}, a folder or file with a transformers configuration, "
        "a transformers class, or pkg.mod:factory",
        fix=did_you_mean(name, [*PRESETS, *classes], otherwise),
        where="--model",
    )


__all__ = ["PRESETS", "inputs_for", "model_named"]
