"""A tiny configuration of any model of transformers, by rule from its configuration class: `tiny.toml`."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path
from typing import Any

import torch

RULES = tomllib.loads(Path(__file__).with_name("tiny.toml").read_text(encoding="utf-8"))
SIZES = {name: int(size) for size, names in RULES["sizes"].items() for name in names.split()}
LAYERS = "num_hidden_layers"
MOST_LAYERS = 4
CLASSIFIER = "ForSequenceClassification"


def class_names() -> list[str]:
    """Every causal language model of transformers."""
    import transformers

    return [n for n in dir(transformers) if n.endswith("ForCausalLM") and not n.startswith("AutoModel")]


def tiny_config(default: Any) -> Any:
    """The configuration `default`, made anew from its class with tiny sizes."""
    return type(default)(**tiny_fields(default))


def tiny_fields(default: Any) -> dict[str, Any]:
    """The fields of a configuration that a tiny one states; the others keep, or follow from, their defaults."""
    stated = {n: p.default for n, p in inspect.signature(type(default)).parameters.items()}
    own = vars(default)
    fields = {n: tiny_value(n, value) for n, value in stated.items()}
    fields |= {n: SIZES[n] for n in RULES["unset"]["names"] if n in stated and own.get(n) is None}
    if "num_key_value_heads" in fields and own.get("num_key_value_heads") == own.get("num_attention_heads"):
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    fields = {n: value for n, value in fields.items() if value is not stated[n]}
    fields |= {n: value for n, value in RULES["values"].items() if n in stated}
    fields |= tiny_layers(default, stated)
    excepted = RULES["exceptions"].get(type(default).__name__, {})
    fields |= {
        n: tiny_config(x) for n, x in own.items() if hasattr(x, "model_type") and n in stated and n not in excepted
    }
    return fields | excepted


def tiny_value(name: str, value: Any) -> Any:
    """A field's tiny value, from its name; the value itself where the name says nothing."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float | int) and name.endswith(tuple(RULES["zero"]["endings"])):
        return type(value)(0)
    if isinstance(value, int) and name in SIZES:
        return min(value, SIZES[name])
    if name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id") and value != inspect._empty:
        return {"p": 0, "b": 1}.get(name[0], 2)
    return value


def tiny_layers(default: Any, stated: dict[str, Any]) -> dict[str, Any]:
    """Where lists speak of each layer: the first layers that show every word of every such list, at least two."""
    own, known = vars(default), getattr(type(default), "attribute_map", {})
    count = LAYERS if LAYERS in stated else known.get(LAYERS, LAYERS)
    total = own.get(count)
    per_layer = {n: own.get(n) for n in stated}
    per_layer = {n: x for n, x in per_layer.items() if isinstance(x, list | tuple) and len(x) == total}
    if not per_layer:
        return {}
    kept = sorted(covering(list(per_layer.values())))[:MOST_LAYERS]
    return {count: len(kept)} | {n: [x[i] for i in kept] for n, x in per_layer.items()}


def covering(lists: list[list[Any]]) -> set[int]:
    """The fewest first places, at least two, that hold every value of every list."""
    seen: set[str] = set()
    kept: set[int] = set()
    for i in range(len(lists[0])):
        here = {f"{at}:{values[i]}" for at, values in enumerate(lists)}
        if not here <= seen:
            seen |= here
            kept.add(i)
    for i in range(len(lists[0])):
        if len(kept) >= 2:
            break
        kept.add(i)
    return kept


def build(name: str) -> torch.nn.Module:
    """A tiny random model. No parameter is zero, so that each has a gradient worth comparing."""
    import transformers

    found = getattr(transformers, name)
    config = tiny_config(found.config_class())
    if name.endswith(CLASSIFIER):
        config.num_labels, config.use_cache, config.pad_token_id = 3, False, 0
    with torch.device("cpu"):
        torch.manual_seed(0)
        model = found(config)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.is_floating_point():
                    parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def __getattr__(name: str):
    """`tests.models.tiny:LlamaForCausalLM` is a factory, as `--model` takes one."""
    if name.endswith(("ForCausalLM", CLASSIFIER)):
        return lambda: build(name)
    raise AttributeError(name)
