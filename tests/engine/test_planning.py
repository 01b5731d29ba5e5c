"""`autosp.plan`: a plan from fake tensors."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, LlamaConfig

import autosp


def _planned(config: LlamaConfig):
    with FakeTensorMode():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()
        ids = torch.zeros(1, 131072, dtype=torch.long)
        batch = {"input_ids": ids, "labels": ids.clone()}
    return autosp.plan(model, batch, "llama", sp=8)


def test_an_eight_billion_shape_is_planned_without_a_weight() -> None:
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=2, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, max_position_embeddings=131072, use_cache=False,
    )  # fmt: skip
    plan = _planned(config)
    sent = [r for r in plan.reshards if r.kind != "slice"]
    assert [r.kind for r in sent] == ["all_to_all"] * 4 + ["all_reduce"]
    qkv, out = sent[0], sent[1]
    # bytes that one rank sends: elements x 2 bytes x (P - 1) / P^2, of q, k and v, and of the output
    assert qkv.bytes == 131072 * (32 + 2 * 8) * 128 * 2 * 7 // 64
    assert out.bytes == 131072 * 32 * 128 * 2 * 7 // 64
    assert qkv.module == "model.layers.0.self_attn"
    assert "its rule wants t (seq) whole" in qkv.reason


def test_more_ranks_than_kv_heads_gather_keys_and_values_before_they_are_repeated() -> None:
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=1, num_attention_heads=32,
        num_key_value_heads=1, vocab_size=1024, max_position_embeddings=131072, use_cache=False,
    )  # fmt: skip
    plan = _planned(config)
    gathered = next(r for r in plan.reshards if r.kind == "all_gather")
    assert len(gathered.values) == 2
    assert gathered.bytes == 2 * 131072 * 128 * 2 * 7 // 8
