"""A case: which small Llama is trained on which batches, how it is sharded, and by which path."""

from __future__ import annotations

import attrs
import torch

VOCAB = 128
STEPS = 3
IGNORED = -100


@attrs.frozen
class Case:
    """One point of the parity table. Every field is a plain value, so that a case travels to a rank as it is."""

    sp: int = 2
    dp: int = 1
    path: str = "plain"  # plain (a DeviceMesh) | zero0 | zero1 (a DeepSpeed engine)
    backend: str = "aot_eager"
    dynamic: bool = False
    batch: int = 1
    mask: str = "absent"  # absent | ones | right
    labels: str = "full"  # full | same (the ids themselves) | prompt (none in the first shard) | unequal
    kv_heads: int = 8
    optimizer: str = "sgd"  # sgd | adam
    attn: str = "sdpa"  # sdpa | eager
    positions: bool = True  # position_ids given
    lengths: tuple[int, ...] = (32,)  # of the steps, in turn
    accumulate: int = 1
    clip: float = 0.0
    mesh_in_config: bool = False  # DeepSpeed is also told "data_parallel_size"
    spec: str | None = "llama"

    @property
    def world(self) -> int:
        return self.dp * self.sp

    @property
    def name(self) -> str:
        """The fields that tell cases apart, short enough for a test id."""
        words = [f"dp{self.dp}sp{self.sp}", self.path, self.optimizer, f"b{self.batch}", f"kv{self.kv_heads}"]
        words += [self.attn, f"mask-{self.mask}", f"labels-{self.labels}"]
        words += ["x".join(map(str, self.lengths))] if self.lengths != (32,) else []
        words += ["dynamic"] * self.dynamic + ["nopos"] * (not self.positions)
        words += [self.backend] * (self.backend != "aot_eager")
        words += [f"acc{self.accumulate}"] * (self.accumulate > 1) + ["clip"] * (self.clip > 0)
        words += ["mesh"] * self.mesh_in_config + ["nospec"] * (self.spec is None)
        return "-".join(words)


def build_model(case: Case) -> torch.nn.Module:
    """The small Llama of a case, the same weights wherever it is built."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=case.kv_heads,
        max_position_embeddings=128,
        initializer_range=0.06,  # at 0.02 the first norm magnifies rounding 50-fold: fp32 alone then misses fp64 by the bar
        use_cache=False,
        attn_implementation=case.attn,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).float().train()


def build_optimizer(case: Case, model: torch.nn.Module) -> torch.optim.Optimizer:
    if case.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=0.5)
    return torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)


def build_batch(case: Case, step: int, micro: int, dp_rank: int) -> dict[str, torch.Tensor]:
    """What the ranks of one sp group are all given at one micro step."""
    length = case.lengths[step % len(case.lengths)]
    generator = torch.Generator().manual_seed(1 + dp_rank + 10 * micro + 100 * step)
    ids = torch.randint(VOCAB, (case.batch, length), generator=generator)
    batch = {"input_ids": ids, "labels": _labels(case, ids, length)}
    if case.positions:
        batch["position_ids"] = torch.arange(length).expand(case.batch, length).contiguous()
    if case.mask != "absent":
        batch["attention_mask"] = torch.ones_like(ids)
    if case.mask == "right":
        _pad_right(batch, length)
    return batch


def _labels(case: Case, ids: torch.Tensor, length: int) -> torch.Tensor:
    if case.labels == "same":
        return ids
    labels = ids.clone()
    shard = length // case.sp
    if case.labels == "prompt":
        labels[:, : shard + 1] = IGNORED  # one more: the label of a shard's last token is the next shard's first
    if case.labels == "unequal":
        for rank in range(case.sp):
            labels[:, rank * shard : rank * shard + rank + 1] = IGNORED
    return labels


def _pad_right(batch: dict[str, torch.Tensor], length: int) -> None:
    for row in range(len(batch["input_ids"])):
        end = length - 3 - 4 * row
        batch["attention_mask"][row, end:] = 0
        batch["labels"][row, end:] = IGNORED
