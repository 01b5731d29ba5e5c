"""A trial: one model trained a few steps on made-up batches, first unsharded, in plain eager PyTorch."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import torch

from ..engine.failures import fails_unsharded
from ..errors import AutospError, Problem, SpecError
from ..spec import Input, Spec
from ..spec.build import build_model
from ..spec.model import parameters_of
from ..spec.sample import COUNTED, LABELS, made_up, no_inputs, switch_off_cache
from ..syntax.layout import ELLIPSIS

IGNORED = -100
LR = {"sgd": 0.5, "adam": 1e-3}
# Adam moves an element whose gradient is all rounding by up to lr / eps times that: with 1e-5 the unsharded program in
# fp32 was off its own result in fp64 by 0.6 to 3.5 of the bar (five families), with 1e-3 by 0.02 to 0.28.
EPS = 1e-3

Batch = dict[str, Any]
Backward = Callable[[Batch, float], float]


@attrs.frozen
class Trial:
    """What is trained, on which batches, and how it is split. Plain values: it travels to a rank as it is.

    mask: none; ones; right or left padding; packed: two documents a row, marked by position_ids that restart.
    labels: full; prompt: none in the first rank's shard; unequal: another number on each; empty: none at all.
    extras: what a trainer of Hugging Face may also give, `num_items_in_batch` and `shift_labels`.
    precision: fp32; bf16 weights; autocast to bf16; fp16: autocast with a GradScaler.
    zero: the stage of a DeepSpeed engine; None for a model and a DeviceMesh. lengths: of the steps, in turn.
    device: where both runs compute; weights and batches are made on the CPU, so that they are the same everywhere.
    """

    model: str
    spec: str | None = None
    sp: int = 2
    dp: int = 1
    batch: int = 2
    lengths: tuple[int, ...] = (32,)
    mask: str = "none"
    labels: str = "full"
    extras: tuple[str, ...] = ()
    optimizer: str = "sgd"
    lr: float | None = None
    precision: str = "fp32"
    zero: int | None = None
    backend: str = "aot_eager"
    dynamic: bool = False
    accumulate: int = 1
    clip: float = 0.0
    steps: int = 3
    attn: str | None = None
    recompute: str | None = None
    device: str = "cpu"

    @property
    def world(self) -> int:
        return self.dp * self.sp


@attrs.frozen
class Trained:
    """Losses by micro step, the parameters at the end, and their gradients at the first step.

    resolution: the relative spacing of numbers of the loss's own dtype; 0 where it is not known.
    """

    losses: tuple[float, ...]
    parameters: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor] = attrs.field(factory=dict)
    resolution: float = 0.0


def build(trial: Trial) -> tuple[torch.nn.Module, Batch | None]:
    """The model, the same weights wherever it is built, and its maker's own inputs if it gives any."""
    torch.manual_seed(0)
    made = build_model(trial.model, device="cpu")
    model, own_inputs = made if isinstance(made, tuple) else (made, None)
    if trial.attn:
        _set_attention(model, trial.attn)
    switch_off_cache(model)
    cast = model.bfloat16 if trial.precision == "bf16" else model.float  # `to` would make complex tensors real
    return cast().train().to(trial.device), own_inputs


def _set_attention(model: torch.nn.Module, name: str) -> None:
    """The attention of every transformers model that it is, or holds."""
    models: list[Any] = [m for m in model.modules() if hasattr(m, "set_attn_implementation")]
    if not models:
        raise SpecError(
            Problem(
                what=f"{type(model).__name__} neither is nor holds a transformers model, whose attention may be chosen",
                rule="--attn names an implementation of transformers' own",
                fix="drop --attn: the model's attention is what its forward says",
            )
        )
    for each in models:
        each.set_attn_implementation(name)


def batches(
    trial: Trial, spec: Spec, model: torch.nn.Module, own_inputs: Batch | None
) -> Callable[[int, int, int], Batch]:
    """The batch of a step, a micro step and a data-parallel rank."""
    if own_inputs is not None:
        return lambda step, micro, dp_rank: _there(own_inputs, trial.device)
    taken, any_too = parameters_of(model)
    owed = [n for n, p in inspect.signature(model.forward).parameters.items() if p.default is p.empty and n in taken]
    if missing := [name for name in owed if spec.input(name) is None]:
        raise SpecError(no_inputs(type(model).__name__, missing, [each.name for each in spec.inputs]))
    taken = [each.name for each in spec.inputs] if any_too and len(taken) == 0 else taken
    vocab = min((m.num_embeddings for m in model.modules() if isinstance(m, torch.nn.Embedding)), default=2)
    vocab = getattr(getattr(model, "config", None), "vocab_size", vocab)

    config = getattr(model, "config", None)

    def batch(step: int, micro: int, dp_rank: int) -> Batch:
        length = trial.lengths[step % len(trial.lengths)]
        generator = torch.Generator().manual_seed(1 + dp_rank + 10 * micro + 100 * step)
        return _there(_batch(trial, spec, taken, vocab, length, generator, config), trial.device)

    return batch


def _there(batch: Batch, device: str) -> Batch:
    """The batch with its tensors on a device."""
    return {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}


def _batch(trial: Trial, spec: Spec, taken: list[str], vocab: int, length: int, generator, config: Any) -> Batch:
    ids = torch.randint(1, max(vocab, 2), (trial.batch, length), generator=generator)
    keep = _kept(trial, length)
    target = _target_dim(spec)
    targets = length - length // 3 if target else length  # of another length where they may be
    own = torch.randint(1, max(vocab, 2), (trial.batch, targets), generator=generator) if target else ids
    labels = torch.where(_kept(trial, targets) & _spoken_for(trial, targets), own, IGNORED)
    batch: Batch = {}
    for each in spec.inputs:
        if each.name not in taken:
            continue
        if _is_label(each):
            batch[each.name] = _row_labels(trial.batch, config, generator) if _of_rows(each) else labels
        elif "mask" in each.name:
            if trial.mask in ("ones", "right", "left") or not each.optional:
                batch[each.name] = (_kept(trial, targets) if target in each.layout.names else keep).long()
        elif "pos" in each.name:
            if trial.mask == "packed" or not each.optional:
                batch[each.name] = _positions(trial, length)
        elif target in each.layout.names:
            if trial.labels != "full" or not each.optional:  # made from labels, most would be padding
                batch[each.name] = own
        elif not each.optional:
            like = made_up(each.name, each.layout, {"batch": trial.batch}, length)
            counted = like.dtype == torch.int64 or any(word in each.name for word in (*COUNTED, "idx"))
            batch[each.name] = ids if counted else torch.randn(like.shape, generator=generator)
    if any(_of_rows(each) for each in spec.inputs) and getattr(config, "pad_token_id", None) is not None:
        # a classifier finds the last token of a row by the id of padding
        batch |= {name: torch.where(keep, ids, config.pad_token_id) for name, x in batch.items() if x is ids}
    if "shift_labels" in trial.extras:
        batch["shift_labels"] = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[:, 1:].contiguous()
    if "num_items_in_batch" in trial.extras:
        batch["num_items_in_batch"] = (labels[:, 1:] != IGNORED).sum()
    return batch


def _is_label(declared: Input) -> bool:
    return any(word in declared.name for word in LABELS)


def _of_rows(declared: Input) -> bool:
    """Whether an input holds labels of rows, not of tokens."""
    return _is_label(declared) and declared.layout.dims[1:] in ((), (ELLIPSIS,))


def _target_dim(spec: Spec) -> str | None:
    """The split dim that labels alone have of what a step needs: the length of a second sequence."""
    known = {name for i in spec.inputs if not (i.optional or _is_label(i)) for name in i.layout.names}
    parts = [part for i in spec.inputs if _is_label(i) for dim in i.layout.dims for part in dim.parts]
    return next((part.name for part in parts if part.axes and part.name not in known), None)


def _row_labels(rows: int, config: Any, generator) -> torch.Tensor:
    """A class a row, or a number where the configuration has one label."""
    classes = getattr(config, "num_labels", 2)
    if classes == 1:
        return torch.randn(rows, generator=generator)
    return torch.randint(0, classes, (rows,), generator=generator)


def _kept(trial: Trial, length: int) -> torch.Tensor:
    """Where no padding is: 3 positions of the first row are, 4 more in each row after it."""
    keep = torch.ones(trial.batch, length, dtype=torch.bool)
    for row in range(trial.batch):
        pad = min(3 + 4 * row, length - 2)
        if trial.mask == "right":
            keep[row, length - pad :] = False
        if trial.mask == "left":
            keep[row, :pad] = False
    return keep


def _spoken_for(trial: Trial, length: int) -> torch.Tensor:
    """Where a label counts."""
    counts = torch.ones(trial.batch, length, dtype=torch.bool)
    shard = max(length // trial.sp, 1)
    if trial.labels == "prompt":  # one more: the label of a shard's last token is the next shard's first
        counts[:, : shard + 1] = False
    if trial.labels == "unequal":
        for rank in range(trial.sp):
            counts[:, rank * shard : rank * shard + rank + 1] = False
    return counts if trial.labels != "empty" else torch.zeros_like(counts)


def _positions(trial: Trial, length: int) -> torch.Tensor:
    at = torch.arange(length)
    if trial.mask == "packed":
        at = torch.where(at < length // 3, at, at - length // 3)
    return at.expand(trial.batch, length).contiguous()


def loss_of(output: Any) -> torch.Tensor:
    """The loss of what a forward returns: a key, an attribute, of a tuple its last where that is a number, else its
    first, or itself."""
    if isinstance(output, Mapping) and "loss" in output:
        return output["loss"]
    if hasattr(output, "loss"):
        return output.loss
    if isinstance(output, tuple):
        return output[-1] if output[-1].ndim == 0 else output[0]
    return output


def make_optimizer(trial: Trial, model: torch.nn.Module) -> torch.optim.Optimizer:
    lr = LR[trial.optimizer] if trial.lr is None else trial.lr
    if trial.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=lr)
    return torch.optim.Adam(model.parameters(), lr=lr, eps=EPS)


def unsharded(trial: Trial, spec: Spec) -> Trained:
    """Plain eager PyTorch on the whole batch: gradients are the mean over dp of each rank's own loss.

    Raises SpecError where the model itself does not take the batch.
    """
    model, own_inputs = build(trial)
    batch = batches(trial, spec, model, own_inputs)
    try:
        return run(trial, model, batch, range(trial.dp))
    except AutospError:
        raise
    except Exception as error:  # the model's own, whatever it is
        raise SpecError(fails_unsharded(error, model)) from error


def run(
    trial: Trial,
    model: torch.nn.Module,
    batch: Callable[[int, int, int], Batch],
    dp_ranks: Iterable[int],
    *,
    call: Callable | None = None,
    backward: Backward | None = None,
    finish: Callable[[], None] = lambda: None,
) -> Trained:
    """Trains `model` by `call(**batch)` (itself), or by `backward(batch, share)`, which adds to the gradients.

    finish: what happens to the gradients before the optimizer's step.
    """
    optimizer = make_optimizer(trial, model)
    scaler = torch.amp.GradScaler(trial.device, init_scale=1024.0, enabled=trial.precision == "fp16")
    dp_ranks, losses, gradients, resolution = list(dp_ranks), [], {}, 0.0

    def eager(inputs: Batch, share: float) -> float:
        nonlocal resolution
        with precision(trial):
            loss = loss_of((call or model)(**inputs))
        resolution = torch.finfo(loss.dtype).eps
        scaler.scale(loss * share).backward()
        return float(loss.detach())

    if backward:
        scaler = torch.amp.GradScaler(trial.device, enabled=False)
    one = backward or eager
    for step in range(trial.steps):
        optimizer.zero_grad()
        for micro in range(trial.accumulate):
            share = 1 / (len(dp_ranks) * trial.accumulate)
            losses.append(sum(one(batch(step, micro, r), share) for r in dp_ranks) / len(dp_ranks))
        finish()
        scaler.unscale_(optimizer)
        if step == 0:
            gradients = {n: _comparable(p.grad) for n, p in model.named_parameters() if p.grad is not None}
        if trial.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), trial.clip)
        scaler.step(optimizer)
        scaler.update()
    return Trained(tuple(losses), snapshot(model), gradients, resolution)


def precision(trial: Trial) -> contextlib.AbstractContextManager:
    """What the forward runs under."""
    dtypes = {"autocast": torch.bfloat16, "fp16": torch.float16}
    lower = dtypes.get(trial.precision)
    return contextlib.nullcontext() if lower is None else torch.autocast(trial.device, lower)


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: _comparable(parameter) for name, parameter in model.named_parameters()}


def _comparable(x: torch.Tensor) -> torch.Tensor:
    """A copy in fp32 on the CPU; complex numbers as pairs of real ones."""
    x = x.detach().cpu().resolve_conj()
    return (torch.view_as_real(x) if x.is_complex() else x).float().clone()
