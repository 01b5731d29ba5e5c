"""The model's states: what a rank holds of parameters, gradients and optimizer under a stage of ZeRO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs
import torch

from ..errors import PlanError, Problem, did_you_mean
from ..solve.messages import size

MOMENTS = {"adamw": 2, "adam": 2, "lion": 1, "adagrad": 1, "momentum": 1, "sgd": 0}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
STAGES = (0, 1, 2, 3)
BUCKET = 500_000_000  # elements: DeepSpeed's reduce_bucket_size
LIVE = 1_000_000_000  # elements: DeepSpeed's stage3_max_live_parameters
FULL = 4  # bytes of an element in fp32


@attrs.frozen
class State:
    """Bytes that one rank holds of the model itself.

    parameters, with ZeRO-3's gathered ones, and optimizer: through the whole step. gradients: all of
    them, as the backward ends. working: what the engine allocates then, when the activations are
    freed (buckets, copies for the optimizer's step), and frees before the next forward.
    assumptions: a sentence for each thing that the figures take for granted.
    """

    parameters: int
    gradients: int
    optimizer: int
    working: int = 0
    assumptions: tuple[str, ...] = ()

    @property
    def lasting(self) -> int:
        """Held through the whole step."""
        return self.parameters + self.optimizer

    @property
    def total(self) -> int:
        """Held as the backward ends, without the engine's own."""
        return self.lasting + self.gradients


@attrs.frozen
class Setting:
    """How a model is trained: what decides the bytes of its states. `ranks` is dp x sp."""

    dtype: torch.dtype = torch.bfloat16
    optimizer: str = "adamw"
    zero: int = 1
    ranks: int = 1

    @property
    def low(self) -> bool:
        """Whether parameters are held in less than fp32."""
        return self.dtype.itemsize < FULL

    @property
    def master(self) -> bool:
        """Whether there is an fp32 copy of the parameters: in low precision, and always in DeepSpeed's ZeRO."""
        return self.low or self.zero > 0

    @property
    def partition(self) -> str:
        """How states are spread over ranks, in words."""
        return f"ZeRO-{self.zero} over {self.ranks} ranks (dp x sp)" if self.zero else "ZeRO-0: nothing is partitioned"

    def part(self, elements: int, stage: int) -> int:
        """How many of so many elements a rank holds, where `stage` of ZeRO partitions them."""
        return -(-elements // self.ranks) if self.zero >= stage else elements

    def faults(self) -> list[Problem]:
        """What is wrong with it, all at once."""
        faults = []
        if self.dtype not in DTYPES.values():
            faults.append(
                Problem(
                    what=f"dtype {self.dtype} is not one that a model is trained in",
                    rule="dtype is torch.bfloat16, torch.float16 or torch.float32",
                    fix="use torch.bfloat16",
                    where="autosp.plan(dtype=...)",
                )
            )
        if self.optimizer not in MOMENTS:
            faults.append(
                Problem(
                    what=f"no optimizer '{self.optimizer}'",
                    rule=f"the state of an optimizer is known for {', '.join(MOMENTS)}",
                    fix=did_you_mean(self.optimizer, MOMENTS, "use the one that keeps as many moments"),
                    where="autosp.plan(optimizer=...)",
                )
            )
        if self.zero not in STAGES:
            faults.append(
                Problem(
                    what=f"no ZeRO stage {self.zero}",
                    rule="ZeRO has stages 0, 1, 2 and 3",
                    fix="use zero=1",
                    where="autosp.plan(zero=...)",
                )
            )
        return faults


def state_of(
    parameters: Iterable[torch.Tensor],
    *,
    dtype: torch.dtype = torch.bfloat16,
    optimizer: str = "adamw",
    zero: int = 1,
    ranks: int = 1,
) -> State:
    """Bytes per rank of a model's states; `ranks` is dp x sp, over which ZeRO partitions.

    parameters: parameters and buffers, fake or real; one given twice (tied) counts once, one that
    needs no gradient has neither gradient nor optimizer state. Those with floating values are held
    in `dtype`, buffers and others as they are.

    Rajbhandari et al. 2020 (ZeRO: Memory Optimizations Toward Training Trillion Parameter Models),
    section 3.1 and 5: with Adam in mixed precision 2 + 2 bytes a parameter, and 12 of optimizer
    state (an fp32 master weight and two moments), of which stage 1 partitions the last, stage 2 the
    gradients too, stage 3 all. What DeepSpeed (0.19, runtime/zero/stage_1_and_2.py) does otherwise
    is counted and noted. Raises PlanError for an optimizer, dtype or stage that is not known.
    """
    setting = Setting(dtype, optimizer, zero, ranks)
    faults = setting.faults()
    if faults:
        raise PlanError(faults)
    once = list({id(p): p for p in parameters}.values())
    trained = sum(p.numel() for p in once if p.requires_grad)
    rest = sum(_untrained_bytes(p, dtype) for p in once if not p.requires_grad)
    gathered = min(trained, LIVE) * dtype.itemsize if zero == 3 and ranks > 1 else 0
    own = setting.part(trained, 1)
    working = _working(setting, own)
    return State(
        parameters=setting.part(trained, 3) * dtype.itemsize + rest + gathered,
        gradients=setting.part(trained, 2) * dtype.itemsize,
        optimizer=own * FULL * (MOMENTS[optimizer] + setting.master),
        working=working,
        assumptions=(
            f"{trained:,} trained elements in {dtype_name(dtype)}, {setting.partition}"
            + (f"; {size(rest)} of frozen parameters and buffers, whole on every rank" if rest else ""),
            *_of_setting(setting),
            *_of_engine(setting, working, gathered),
        ),
    )


def _untrained_bytes(tensor: torch.Tensor, dtype: torch.dtype) -> int:
    """Bytes of a tensor that is not trained: a parameter is cast with the model, a buffer is not."""
    cast = isinstance(tensor, torch.nn.Parameter) and tensor.is_floating_point()
    return tensor.numel() * (dtype if cast else tensor.dtype).itemsize


def _working(setting: Setting, own: int) -> int:
    """What the engine allocates after the backward, for its `own` elements of the optimizer's state.

    The larger of: a reduce bucket with the copy of the own gradients, as the backward ends; that
    copy, flattened, and again in fp32, in the optimizer's step.
    """
    widened = own * FULL if setting.low else 0
    if not setting.zero:
        return widened
    copied = own * setting.dtype.itemsize
    return max(BUCKET * setting.dtype.itemsize + copied, 2 * copied + widened)


def _of_setting(setting: Setting) -> Iterator[str]:
    """What is taken for granted of gradients and of the optimizer."""
    moments = MOMENTS[setting.optimizer]
    kept = ["an fp32 master copy"] if setting.master else []
    kept += [f"{moments} fp32 moment{'s' if moments > 1 else ''}"] if moments else []
    yield (
        f"gradients are in {dtype_name(setting.dtype)}, and there as the backward makes them: one micro-batch a step "
        "(accumulation holds those of all parameters besides)"
    )
    yield f"optimizer {setting.optimizer} keeps {' and '.join(kept) or 'nothing'} for each trained element"


def _of_engine(setting: Setting, working: int, gathered: int) -> Iterator[str]:
    """What is taken for granted of the engine."""
    if working:
        yield (
            f"{size(working)} of the engine's own (reduce bucket, copies for the optimizer's step) are allocated "
            "when the activations are freed: they count where they are more than those"
        )
    if gathered:
        yield f"ZeRO-3 gathers up to {LIVE:,} elements at a time: {size(gathered)} of the parameters"
    if setting.zero > 1:
        yield "autosp.compile runs ZeRO 0 and 1: for stage 2 and 3 this is arithmetic, and no program was planned"


def dtype_name(dtype: torch.dtype) -> str:
    """`bf16`, `fp16` or `fp32`."""
    return next(name for name, each in DTYPES.items() if each == dtype)
