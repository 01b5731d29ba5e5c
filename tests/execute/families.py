"""The families that people train, as tiny random models, and their training with the spec that their class chooses."""

from __future__ import annotations

import attrs
import torch
import torch.distributed as dist

from tests.execute.reference import Difference, compare, snapshot

LENGTHS = (32, 27)
VOCAB = 128
_COMMON = dict(
    vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, num_attention_heads=8, intermediate_size=96,
    max_position_embeddings=128, initializer_range=0.06,
)  # fmt: skip
_GROUPED = dict(_COMMON, num_key_value_heads=4, use_cache=False)
_NO_DROPOUT = dict(attention_dropout=0.0, hidden_dropout=0.0)

# class name: the configuration that makes a tiny one; sliding windows are shorter than the sequence
FAMILIES = {
    "LlamaForCausalLM": _GROUPED,
    "MistralForCausalLM": dict(_GROUPED, sliding_window=8),
    "Qwen2ForCausalLM": _GROUPED,
    "Qwen3ForCausalLM": dict(_GROUPED, head_dim=8),
    "Gemma2ForCausalLM": dict(_GROUPED, head_dim=8, sliding_window=8, query_pre_attn_scalar=8),
    "Gemma3ForCausalLM": dict(_GROUPED, head_dim=8, sliding_window=8, query_pre_attn_scalar=8),
    "Phi3ForCausalLM": dict(_GROUPED, pad_token_id=0),
    "Olmo2ForCausalLM": _GROUPED,
    "GPT2LMHeadModel": dict(
        vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=8, n_positions=128, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, initializer_range=0.06, use_cache=False,
    ),
    "GPTNeoXForCausalLM": dict(_COMMON, **_NO_DROPOUT, use_cache=False),
    "FalconForCausalLM": dict(
        vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, num_attention_heads=8, alibi=False,
        initializer_range=0.06, use_cache=False, **_NO_DROPOUT,
    ),
    "Starcoder2ForCausalLM": dict(_GROUPED, residual_dropout=0.0, embedding_dropout=0.0, attention_dropout=0.0),
    "MixtralForCausalLM": dict(_GROUPED, num_local_experts=4, output_router_logits=True),
    "Qwen3MoeForCausalLM": dict(
        _GROUPED, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, output_router_logits=True
    ),
    "BertForMaskedLM": dict(_COMMON, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
}  # fmt: skip


@attrs.frozen
class Trained:
    losses: tuple[float, ...]
    parameters: dict[str, torch.Tensor]


@attrs.frozen
class Seen:
    losses: tuple[float, ...]
    difference: Difference


def build(name: str) -> torch.nn.Module:
    import transformers

    cls = getattr(transformers, name)
    torch.manual_seed(0)
    return cls(cls.config_class(**FAMILIES[name])).float().train()


def batch(step: int) -> dict[str, torch.Tensor]:
    """Right-padded, and prompt-masked so that the first half of a row has no valid label."""
    length = LENGTHS[step % len(LENGTHS)]
    ids = torch.randint(1, VOCAB, (2, length), generator=torch.Generator().manual_seed(step))
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[1, : length // 2 + 1] = -100
    labels[0, -4:], mask[0, -4:] = -100, 0
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def train(model: torch.nn.Module) -> tuple[float, ...]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(len(LENGTHS)):
        loss = model(**batch(step)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return tuple(losses)


def unsharded(name: str) -> Trained:
    model = build(name)
    return Trained(train(model), snapshot(model))


def sharded(item: tuple[str, Trained]) -> Seen:
    """Trains a family with the spec that its class chooses."""
    import autosp

    name, expected = item
    model = build(name)
    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("sp",))
    autosp.compile(model, mesh=mesh, backend="aot_eager")
    return Seen(train(model), compare(expected.parameters, snapshot(model)))
