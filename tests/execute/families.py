"""The families that people train, as tiny random models, and their training with the spec that their class chooses."""

from __future__ import annotations

from collections.abc import Container, Iterable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from autosp import resources
from autosp.spec import load
from tests.models import tiny

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
    "BloomForCausalLM": dict(
        vocab_size=VOCAB, hidden_size=64, n_layer=2, n_head=8, initializer_range=0.06, hidden_dropout=0.0,
        attention_dropout=0.0, use_cache=False,
    ),
    "BertForMaskedLM": dict(_COMMON, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
}  # fmt: skip
# experts that no spec names: the general spec serves these classes
EXPERTS = {
    "GptOssForCausalLM": dict(
        _GROUPED, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=8, pad_token_id=0,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "DeepseekV3ForCausalLM": dict(
        _GROUPED | {"num_key_value_heads": 8}, pad_token_id=0, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=8, moe_intermediate_size=32, n_routed_experts=4, n_shared_experts=1,
        num_experts_per_tok=2, n_group=2, topk_group=1, first_k_dense_replace=1,
    ),
}  # fmt: skip


class NanoGPT(nn.Module):
    """A decoder as people write it by hand: it shifts by slicing logits and labels."""

    def __init__(self, width: int = 64, heads: int = 8, layers: int = 2, length: int = 128):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCAB, bias=False)

    def logits(self, idx):
        x = self.tokens(idx) + self.places(torch.arange(idx.shape[1], device=idx.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def forward(self, idx, targets):
        logits = self.logits(idx)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100), logits


class WeightedLoss(NanoGPT):
    """Class weights and label smoothing; the targets come shifted already."""

    def forward(self, idx, targets):
        weights = torch.linspace(0.5, 2.0, VOCAB, device=idx.device)
        logits = self.logits(idx)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), weight=weights, label_smoothing=0.1)


class SoftLabels(NanoGPT):
    """Targets are probabilities."""

    def forward(self, idx, targets):
        probabilities = F.one_hot(targets.clamp(min=0), VOCAB).float() * 0.9 + 0.1 / VOCAB
        return F.cross_entropy(self.logits(idx).float().flatten(0, 1), probabilities.flatten(0, 1))


class RotaryLlama(nn.Module):
    """A Llama as people write it by hand, its rotary embedding by complex numbers (as Meta's own), or by real ones."""

    def __init__(self, width: int = 64, heads: int = 8, kv_heads: int = 4, layers: int = 2, length: int = 128):
        super().__init__()
        self.tokens = nn.Embedding(VOCAB, width)
        self.blocks = nn.ModuleList(RotaryBlock(width, heads, kv_heads) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, VOCAB, bias=False)
        self.register_buffer("freqs_cis", freqs_cis(width // heads, length), persistent=False)

    def rotated(self, x, freqs):
        pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * freqs.view(1, x.shape[1], 1, -1)).flatten(3).type_as(x)

    def forward(self, idx, targets):
        x, freqs = self.tokens(idx), self.freqs_cis[: idx.shape[1]]
        for block in self.blocks:
            x = block(x, lambda y: self.rotated(y, freqs))
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100), logits


class RealRotaryLlama(RotaryLlama):
    """The same numbers without complex ones."""

    def rotated(self, x, freqs):
        cos, sin = (part.view(1, x.shape[1], 1, -1) for part in (freqs.real, freqs.imag))
        a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(3).type_as(x)


class RotaryBlock(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int):
        super().__init__()
        self.heads, self.kv_heads, self.each = heads, kv_heads, width // heads
        self.before, self.between = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.out = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(width, kv_heads * self.each, bias=False) for _ in range(2))
        self.up, self.gate = (nn.Linear(width, 96, bias=False) for _ in range(2))
        self.down = nn.Linear(96, width, bias=False)

    def forward(self, x, rotate):
        b, s, w = x.shape
        y = self.before(x)
        q, k, v = self.q(y).view(b, s, self.heads, -1), self.k(y).view(b, s, self.kv_heads, -1), self.v(y)
        q, k, v = rotate(q), rotate(k), v.view(b, s, self.kv_heads, -1)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, 2) for t in (k, v))
        y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, s, w))
        y = self.between(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def freqs_cis(width: int, length: int) -> torch.Tensor:
    """The rotations of every position, as complex numbers of size 1."""
    rates = 1.0 / 10000.0 ** (torch.arange(0, width, 2).float() / width)
    angles = torch.outer(torch.arange(length).float(), rates)
    return torch.polar(torch.ones_like(angles), angles)


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 96), nn.GELU(), nn.Linear(96, width))

    def forward(self, x):
        b, s, w = x.shape
        q, k, v = (
            y.view(b, s, self.heads, w // self.heads).transpose(1, 2) for y in self.qkv(self.before(x)).split(w, 2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, s, w))
        return x + self.mlp(self.between(x))


def lora() -> nn.Module:
    """PEFT's LoRA on a Llama: the base weights are frozen."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    return get_peft_model(build("LlamaForCausalLM"), config)


def tied() -> nn.Module:
    """One weight is embedding and head."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**FAMILIES["LlamaForCausalLM"], tie_word_embeddings=True))


def checkpointed() -> nn.Module:
    """Gradient checkpointing, as transformers does it."""
    model = build("LlamaForCausalLM")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def longrope() -> nn.Module:
    """Rotary factors that the length of the batch chooses: a buffer is written in every forward."""
    from transformers import Phi3Config, Phi3ForCausalLM

    rope = dict(
        rope_type="longrope", rope_theta=10000.0, short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.5, 2.0, 3.0, 4.0],
        original_max_position_embeddings=16, factor=4.0,
    )  # fmt: skip
    config = FAMILIES["Phi3ForCausalLM"] | dict(max_position_embeddings=64)
    return Phi3ForCausalLM(Phi3Config(**config, original_max_position_embeddings=16, rope_parameters=rope))


class Distilled(nn.Module):
    """No labels: a Llama learns the probabilities of another one, token by token."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = build("LlamaForCausalLM"), build("LlamaForCausalLM").requires_grad_(False)
        self.config = self.student.config

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        given = dict(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids)
        wanted = self.teacher(**given).logits.float().softmax(-1)
        gap = F.kl_div(self.student(**given).logits.float().log_softmax(-1), wanted, reduction="none").sum(-1)
        kept = torch.ones_like(gap) if attention_mask is None else attention_mask.to(gap.dtype)
        return (gap * kept).sum() / kept.sum()


def pictures():
    """Two rows with a picture each, whose 16 tokens cross the shards."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=4,
        projection_dim=32,
    )  # fmt: skip
    text = LlamaConfig(**FAMILIES["LlamaForCausalLM"], pad_token_id=0)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=120, image_seq_length=16)
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, 100, (2, 32), generator=generator)
    ids[:, 8:24] = 120
    return LlavaForConditionalGeneration(config), {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.masked_fill(ids == 120, -100),
        "pixel_values": torch.randn(2, 3, 16, 16, generator=generator),
    }  # fmt: skip


VARIANTS = {
    "LlamaLoRA": lora, "LlamaTied": tied, "LlamaCheckpointed": checkpointed, "Phi3LongRope": longrope,
    "LlamaDistilled": Distilled, "LlavaForConditionalGeneration": pictures,
}  # fmt: skip
CLASSIFIERS = ("LlamaForSequenceClassification", "BertForSequenceClassification")
SEQUENCES = (*CLASSIFIERS, "T5ForConditionalGeneration", "BartForConditionalGeneration")  # tests/execute/sequences.py
OWN = {"NanoGPT": NanoGPT, "WeightedLoss": WeightedLoss, "SoftLabels": SoftLabels, "ComplexRotary": RotaryLlama}
OWN_SPEC = """
mesh    [dp: local, sp]
input   idx      [batch@dp, seq@sp]
input   targets  [batch@dp, seq@sp]
"""


def unlisted(matches: Iterable[tuple[str, ...]], known: Container[str]) -> list[str]:
    """The first class of each shipped spec that serves none of the `known` classes: a family that is a spec file and
    nothing more. Its tiny configuration is made by rule (tests/models/tiny.toml)."""
    return [match[0] for match in matches if match and not any(name in known for name in match)]


UNLISTED = unlisted((load(n).match for n in resources.listing("models")), {*FAMILIES, *EXPERTS, *SEQUENCES})


def build(name: str) -> nn.Module | tuple[nn.Module, dict]:
    """A row of the parity table, with its batch where that is its own: weights large enough that rounding is not
    magnified by the first norm."""
    if name in VARIANTS:
        return VARIANTS[name]()
    if name in OWN:
        model = OWN[name]()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.06)
        return model
    import transformers

    stated = (FAMILIES | EXPERTS).get(name)
    if stated is None:
        return tiny.build(name)
    cls = getattr(transformers, name)
    return cls(cls.config_class(**stated))


def __getattr__(name: str):
    """`tests.execute.families:LlamaForCausalLM` is a factory, as `--model` takes one."""
    if name in FAMILIES or name in EXPERTS or name in VARIANTS or name in OWN or name in UNLISTED:
        return partial(build, name)
    raise AttributeError(name)
