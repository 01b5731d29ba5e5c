"""A rule to start from: right for any operator, since nothing in it may be split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import attrs
import torch

from ..compat.torch import FakeTensorMode, unlogged_fakes, without_fakes
from ..sharding import Size
from .call import Call, is_tensor, tensor_results

At = tuple[int, int]  # an operand, and one of its dims


def draft_rule(name: str, call: Call) -> str:
    """Rule text for a call: dims that the operator needs of one size share a name, and every dim is whole."""
    sizes = {(i, d): n for i, shape in enumerate(call.operands) for d, n in enumerate(shape)}
    trial = _OtherSizes.of(call, sizes)
    names: dict[At, str] = {}
    fresh = spelling()
    for at, first in _ties(trial, sizes).items():
        names[at] = names[first] if first in names else next(fresh)
    follows = trial.results(names)

    def dims(shape: Sequence[Size], letters: Sequence[str | None]) -> str:
        return f"[{', '.join(known or next(fresh) for _, known in zip(shape, letters, strict=True))}]"

    operands = []
    for arg, places in call.places.items():
        if places:
            shape = call.operands[places[0]]
            operands.append(f"{arg}{dims(shape, [names[places[0], d] for d in range(len(shape))])}")
    results = ", ".join(dims(shape, letters) for shape, letters in zip(call.results, follows, strict=True)) or "[]"
    text = f"rule {name}({', '.join(operands)}) -> {results}"
    used = list(dict.fromkeys(n for n in _dim_names(text.partition("(")[2])))
    return text + (f"\n     whole {', '.join(used)}" if used else "")


def spelling() -> Iterator[str]:
    """a, b, ... z, d26, d27, ..."""
    for i in count():
        yield chr(ord("a") + i) if i < 26 else f"d{i}"


def _dim_names(text: str) -> Iterator[str]:
    for part in text.split("[")[1:]:
        yield from filter(None, (word.strip() for word in part.partition("]")[0].split(",")))


def _ties(trial: _OtherSizes, sizes: dict[At, Size]) -> dict[At, At]:
    """For every dim the first of those whose size has to be the same: where it alone is another, the call fails."""
    first_of = {at: at for at in sizes}
    for size in dict.fromkeys(sizes.values()):
        alike = [at for at, n in sizes.items() if n == size]
        bound = [at for at in alike if len(alike) > 1 and size != 1 and not trial.runs({at})]
        while bound:
            first, *others = bound
            partners = [at for at in others if trial.runs({first, at})]
            group = partners[:1] or (others if trial.runs(set(bound)) or not trial.sound else [])
            first_of |= dict.fromkeys(group, first)
            bound = [at for at in others if at not in group]
    return first_of


@attrs.frozen(eq=False)
class _OtherSizes:
    """The call on other sizes: small ones where it takes them. sound: it runs at all.

    On fakes, and, where it runs on them, on real values too: a custom operator's fake seldom minds sizes.
    """

    call: Call
    sizes: dict[At, int]
    real: bool = False
    sound: bool = False

    @classmethod
    def of(cls, call: Call, sizes: dict[At, Size]) -> _OtherSizes:
        order = {n: 1 if n == 1 else 3 + 2 * i for i, n in enumerate(dict.fromkeys(sizes.values()))}
        small = {at: order[n] for at, n in sizes.items()}
        own = {at: n if isinstance(n, int) else order[n] for at, n in sizes.items()}
        tries = [cls(call, small, True), cls(call, small), cls(call, own)]
        return next((attrs.evolve(each, sound=True) for each in tries if each.shapes(set()) is not None), tries[-1])

    def runs(self, grown: set[At]) -> bool:
        """Whether the call runs where these dims are larger by one."""
        return self.shapes(grown) is not None

    def results(self, names: dict[At, str]) -> list[list[str | None]]:
        """For every dim of every result the name that it grows with."""
        base = self.shapes(set())
        rows: list[list[str | None]] = [[None] * len(shape) for shape in self.call.results]
        for name in dict.fromkeys(names.values()) if base is not None else ():
            grown = self.shapes({at for at, own in names.items() if own == name}) or base
            for row, before, after in zip(rows, base, grown, strict=True):
                for d, (a, b) in enumerate(zip(before, after, strict=True)):
                    if a != b and row[d] is None and name not in row:
                        row[d] = name
        return rows

    def shapes(self, grown: set[At]) -> list[tuple[int, ...]] | None:
        """The shapes of the results; None where the call fails."""
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        try:
            with unlogged_fakes(), without_fakes(), torch.no_grad(), torch.random.fork_rng(devices=[]):
                if self.real:
                    self._call(grown, "cpu")
                with mode:
                    return [tuple(map(int, t.shape)) for t in tensor_results(self._call(grown, None))]
        except Exception:  # any: an operator of a user's
            return None

    def _call(self, grown: set[At], device: str | None) -> Any:
        index = count()

        def made(x: Any) -> Any:
            if is_tensor(x):
                i = next(index)
                shape = [self.sizes[i, d] + ((i, d) in grown) for d in range(len(x.shape))]
                return torch.ones(shape, dtype=x.dtype, device=device or x.device)
            return type(x)(map(made, x)) if type(x) in (list, tuple) else x

        args, kwargs = made(self.call.args), {k: made(v) for k, v in self.call.kwargs.items()}
        return self.call.target(*args, **kwargs)
