"""What is run, in order of worth: the real sizes, and those of the rehearsal."""

from __future__ import annotations

from typing import Any

import attrs

HERE = __name__.rpartition(".")[0]
PARTS = {
    "a": "parity", "b": "rank", "c": "longest", "d": "offload", "e": "flex", "f": "calibrate", "g": "record",
}  # fmt: skip
LETTERS = {name: letter for letter, name in PARTS.items()}


@attrs.frozen
class Cell:
    """One process. needs: seconds that it is expected to take, without which it is not begun; limit: after which it is
    ended. size: what its part's `run` is given."""

    part: str
    name: str
    needs: float
    limit: float
    size: dict[str, Any] = attrs.field(factory=dict)
    package: str = HERE

    @property
    def module(self) -> str:
        return f"{self.package}.{self.part}"

    @property
    def title(self) -> str:
        return f"{LETTERS.get(self.part, '-')} {self.part} {self.name}".strip()

    @property
    def file(self) -> str:
        return f"{LETTERS.get(self.part, '-')}_{self.part}_{self.name}".replace(" ", "_").rstrip("_") + ".json"


# Llama-3.1-8B's layers, and its head.
LAYER_8B = dict(
    hidden_size=4096, intermediate_size=14336, num_attention_heads=32, num_key_value_heads=8, vocab_size=128256,
    rope_theta=500000.0, tie_word_embeddings=False,
)  # fmt: skip
WIDE_1B = dict(LAYER_8B, vocab_size=32768, tie_word_embeddings=True)  # four such layers: 1.0 billion parameters
TINY = dict(
    hidden_size=64, intermediate_size=176, num_attention_heads=8, num_key_value_heads=4, vocab_size=256,
)  # fmt: skip

SETTINGS = ("sac", "none", "deepspeed", "checkpoint", "full", "sac budget auto")
K = 1024
# Lengths of the whole sequence and settings, the shortest first: what the first minutes pay for, and the rest.
FIRST = (
    (32 * K, "none"), (32 * K, "sac"), (32 * K, "deepspeed"), (32 * K, "checkpoint"),
    (128 * K, "sac"), (512 * K, "sac"),
)  # fmt: skip
REST = tuple((n, s) for n in (32 * K, 128 * K, 512 * K) for s in SETTINGS if (n, s) not in FIRST)


def real() -> list[Cell]:
    """For one card of 80 GB or more."""
    parity = dict(layers=2, length=512, backend="inductor")
    return [
        Cell("parity", "sp 1", 30, 120, {**parity, "ranks": [1]}),
        Cell("parity", "simulated", 15, 90, {**parity, "ranks": [2, 4]}),
        *(_rank(length, setting) for length, setting in FIRST),
        Cell("calibrate", "", 15, 60, dict(matmul=8192, attention=16384, elements=2**28, copy=2**30, tries=10)),
        Cell("longest", "1B", 70, 150, dict(
            model=dict(WIDE_1B, num_hidden_layers=4), recompute="none", backend="inductor", hint=128 * K,
            most=80 * 2**30,
        )),
        Cell("offload", "", 30, 90, dict(
            model=dict(WIDE_1B, num_hidden_layers=4), length=64 * K, steps=3, backend="inductor", copy=2**30,
        )),
        Cell("flex", "", 20, 90, dict(length=1024, heads=6, kv_heads=3, width=64, ranks=3, backend="inductor")),
        Cell("record", "", 20, 60, dict(
            model=dict(WIDE_1B, num_hidden_layers=1), length=8 * K, backend="inductor",
        )),
        *(_rank(length, setting) for length, setting in REST),
    ]  # fmt: skip


def _rank(length: int, setting: str) -> Cell:
    slow = length > 256 * K
    return Cell("rank", f"{length // K}K {setting}", 45 if slow else 25, 150 if slow else 100, dict(
        model=dict(LAYER_8B, num_hidden_layers=4), ranks=8, length=length, setting=setting, steps=1 if slow else 4,
        backend="inductor",
    ))  # fmt: skip


def rehearsed() -> list[Cell]:
    """Every part on the CPU. One graph goes through Inductor: it takes half a minute there."""
    tiny, small = dict(TINY, num_hidden_layers=2), dict(TINY, num_hidden_layers=1)
    parity, long = dict(layers=1, length=64, backend="aot_eager"), 300.0

    def rank(setting: str, backend: str = "aot_eager") -> Cell:
        given = dict(model=small, ranks=8, length=512, setting=setting, steps=1, backend=backend)
        return Cell("rank", f"512 {setting}", 1, long, given)

    return [
        Cell("parity", "sp 1", 1, long, {**parity, "ranks": [1]}),
        Cell("parity", "simulated", 1, long, {**parity, "ranks": [2, 4]}),
        *(rank(s, "inductor" if s == "sac" else "aot_eager") for s in SETTINGS if s != "full"),
        Cell("calibrate", "", 1, long, dict(matmul=64, attention=64, elements=2**12, copy=2**16, tries=2)),
        Cell("longest", "1B", 1, long, dict(
            model=small, recompute="none", backend="aot_eager", hint=4096, most=3 * 2**22,
        )),
        Cell("offload", "", 1, long, dict(model=tiny, length=256, steps=1, backend="aot_eager", copy=2**16)),
        Cell("flex", "", 1, long, dict(length=128, heads=6, kv_heads=3, width=16, ranks=3, backend="aot_eager")),
        Cell("record", "", 1, long, dict(model=small, length=256, backend="aot_eager")),
    ]  # fmt: skip


def named(text: str) -> tuple[str, str]:
    """A part and a word of its cells' names, from "b", "rank", or "b:128K". Raises ValueError for no part."""
    part, _, word = text.partition(":")
    if PARTS.get(part, part) not in LETTERS:
        raise ValueError(f"no part '{part}': one of {', '.join(f'{k} ({v})' for k, v in PARTS.items())}")
    return PARTS.get(part, part), word


def chosen(cells: list[Cell], only: tuple[str, ...] = (), skip: tuple[str, ...] = ()) -> list[Cell]:
    """The cells that are asked for, as `named` has it. Raises ValueError."""

    def is_of(cell: Cell, names: tuple[str, ...]) -> bool:
        return any(cell.part == part and word in cell.name for part, word in map(named, names))

    return [c for c in cells if (not only or is_of(c, only)) and not is_of(c, skip)]
