"""All ranks of an axis in one process: each rank's local graph on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch

from ..capture.casts import under
from ..compat.torch import example_size
from ..lower import Rank
from ..lower.comm import SimGroup
from ..passes import Context, Program, run
from ..solve import Plan
from ..spec import Tile


def run_ranks(
    p: int, body: Callable[[int, SimGroup], object], timeout: float = 60.0, group: SimGroup | None = None
) -> list:
    """`body(rank, group)` on every rank at once; their results in rank order.

    A rank that raises wakes the others; its error is raised here. group: one of an earlier run, by default a new one.
    """
    group = group or SimGroup(p, timeout)
    group.open()
    results: list = [None] * p
    errors: list = []

    def work(rank: int) -> None:
        group.enter(rank)
        try:
            results[rank] = body(rank, group)
        except threading.BrokenBarrierError as e:
            errors.append((1, rank, e))
        except Exception as e:
            errors.append((0, rank, e))
            group.abort()

    threads = [threading.Thread(target=work, args=(r,)) for r in range(p)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    group.close()
    if errors:
        _, rank, error = min(errors, key=lambda e: e[:2])
        raise RuntimeError(f"rank {rank}: {type(error).__name__}: {error}") from error
    return results


class Simulation:
    """All ranks of a plan, lowered once, to be run any number of times.

    programs: theirs, as `compile` would run them; locals: their graphs; loss: the place of the loss among the outputs.
    tiles: the spec's `tile` statements. checked: what runs is verified.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        complete: bool = True,
        grad_scale: float = 1.0,
        tiles: Sequence[Tile] = (),
        checked: bool = False,
    ):
        self._group = SimGroup(plan.p)
        ranks = [Rank(r, self._group.name, grad_scale, complete) for r in range(plan.p)]
        self.programs = [
            run(Program.of(plan), Context(rank=rank, tiles=tuple(tiles)), until="tile", verify=checked)
            for rank in ranks
        ]
        self.locals = [program.local for program in self.programs]
        self._around = plan.problem.captured.autocast
        self._group.close()
        names = [p.node for p in plan.problem.captured.placeholders]
        self.written = [names.index(o.buffer) for o in plan.problem.captured.outputs if o.buffer is not None]
        self.loss = next((o.position for o in plan.problem.captured.outputs if o.name == "loss"), 0)

    def run(self, inputs: Sequence) -> list[tuple]:
        """Every rank's outputs and the gradients of its inputs (None where there is none), from the
        captured graph's inputs on whole tensors."""
        held: dict[int, list] = {}

        def body(rank: int, group: SimGroup):
            own = held[rank] = [_own(x) for x in inputs]
            with under(self._around):
                outputs = self.locals[rank](*own)
            loss = outputs[self.loss]
            if isinstance(loss, torch.Tensor) and loss.requires_grad:
                with torch.autograd.set_multithreading_enabled(False):  # a GPU's one thread would run all ranks'
                    loss.backward()
            return outputs, [x.grad if isinstance(x, torch.Tensor) else None for x in own]

        found = run_ranks(self._group.size, body, group=self._group)
        for i in self.written:
            assert all(torch.equal(own[i], held[0][i]) for own in held.values()), "a buffer differs between ranks"
            inputs[i].copy_(held[0][i])
        return found


def simulate(plan: Plan, inputs: Sequence, *, complete: bool = True, grad_scale: float = 1.0) -> list[tuple]:
    """A simulation that is run once."""
    return Simulation(plan, complete=complete, grad_scale=grad_scale).run(inputs)


def _own(x):
    """A rank's copy of an input; the example's number for a symbol."""
    if isinstance(x, torch.Tensor):
        return x.detach().clone().requires_grad_(x.requires_grad)
    return example_size(x)
