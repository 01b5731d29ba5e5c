"""The models of the parts, and what they compute by definition."""

from __future__ import annotations

from typing import Any

import torch


def llama(sizes: dict[str, Any], place: str, dtype: torch.dtype, length: int) -> torch.nn.Module:
    """A Llama of these sizes with random weights, made where it runs."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    config = config_of(sizes, length)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(place):
            return LlamaForCausalLM(config).train()
    finally:
        torch.set_default_dtype(before)


def config_of(sizes: dict[str, Any], length: int) -> Any:
    from transformers import LlamaConfig

    sizes = dict(sizes)
    theta = sizes.pop("rope_theta", 10000.0)
    return LlamaConfig(
        **sizes, rope_parameters={"rope_type": "default", "rope_theta": theta}, use_cache=False,
        max_position_embeddings=max(length, 1024), attn_implementation="sdpa",
    )  # fmt: skip


def batch(vocab: int, length: int, place: str) -> dict[str, torch.Tensor]:
    """One row; its labels are its own tokens."""
    ids = torch.randint(vocab, (1, length), generator=torch.Generator().manual_seed(1)).to(place)
    return {"input_ids": ids, "labels": ids}


def model_flops(sizes: dict[str, Any], length: int, ranks: int = 1) -> float:
    """FLOPs of a step of one rank by the model's definition, whatever is recomputed: what MFU counts.

    Chowdhery et al. 2022 (PaLM: Scaling Language Modeling with Pathways), appendix B: 6 N + 12 L H Q T a token, N the
    parameters that multiply (the embedding's lookup does not), L layers, H heads of Q features, T the length; the
    attention's half where it is causal, as FlashAttention's figures count it (Dao 2023, FlashAttention-2, section 4.1).
    """
    d, layers = sizes["hidden_size"], sizes["num_hidden_layers"]
    head = d // sizes["num_attention_heads"]
    kv = head * sizes["num_key_value_heads"]
    each = 2 * d * d + 2 * d * kv + 3 * d * sizes["intermediate_size"]
    multiplied = layers * each + d * sizes["vocab_size"]
    return length * (6 * multiplied + 12 * layers * d * length / 2) / ranks
