"""All ranks of a mesh in one process: each rank's local graph on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch

from ..capture.casts import under
from ..compat.torch import example_size
from ..lower import Rank
from ..passes import Context, Program, run
from ..sharding import Mesh, MeshAxis, ranks
from ..sharding.comm import SimGroup
from ..solve import Plan
from ..spec import Tile


class SimMesh:
    """Every rank of a mesh in one process, and the groups of each axis: the ranks that differ on it alone. The last axis'
    ranks are next to each other."""

    def __init__(self, mesh: Mesh, timeout: float = 60.0):
        self.mesh, self.size = mesh, ranks(mesh)
        self._group: dict[tuple[str, tuple[int, ...]], SimGroup] = {}
        for rank in range(self.size):
            for i, axis in enumerate(mesh):
                key = self._line(rank, i)
                if key not in self._group:
                    self._group[key] = SimGroup(axis.size, timeout)

    @property
    def groups(self) -> list[SimGroup]:
        return list(self._group.values())

    def places(self, rank: int) -> tuple[int, ...]:
        """The rank's place on each axis."""
        coordinates = []
        for axis in reversed(self.mesh):
            coordinates.append(rank % axis.size)
            rank //= axis.size
        return tuple(reversed(coordinates))

    def of(self, rank: int) -> tuple[SimGroup, ...]:
        """The rank's group on each axis."""
        return tuple(self._group[self._line(rank, i)] for i in range(len(self.mesh)))

    def _line(self, rank: int, i: int) -> tuple[str, tuple[int, ...]]:
        places = self.places(rank)
        return self.mesh[i].name, (*places[:i], *places[i + 1 :])

    def run(self, body: Callable[[int], object]) -> list:
        """`body(rank)` on every rank at once; their results in rank order.

        A rank that raises wakes the others; its error is raised here.
        """
        results: list = [None] * self.size
        errors: list = []
        for group in self.groups:
            group.open()

        def work(rank: int) -> None:
            for group, place in zip(self.of(rank), self.places(rank), strict=True):
                group.enter(place)
            try:
                results[rank] = body(rank)
            except threading.BrokenBarrierError as e:
                errors.append((1, rank, e))
            except Exception as e:
                errors.append((0, rank, e))
                for group in self.groups:
                    group.abort()

        threads = [threading.Thread(target=work, args=(r,)) for r in range(self.size)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for group in self.groups:
            group.close()
        if errors:
            _, rank, error = min(errors, key=lambda e: e[:2])
            raise RuntimeError(f"rank {rank}: {type(error).__name__}: {error}") from error
        return results


def run_ranks(p: int, body: Callable[[int, SimGroup], object], timeout: float = 60.0) -> list:
    """`body(rank, group)` on every rank of one axis at once; their results in rank order."""
    mesh = SimMesh((MeshAxis("", p),), timeout)
    return mesh.run(lambda rank: body(rank, mesh.of(rank)[0]))


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
        self._mesh = mesh = SimMesh(plan.mesh)
        names = [tuple(group.name for group in mesh.of(r)) for r in range(mesh.size)]
        each = [Rank(mesh.places(r), names[r], grad_scale, complete) for r in range(mesh.size)]
        self.programs = [
            run(Program.of(plan), Context(rank=rank, tiles=tuple(tiles)), until="tile", verify=checked) for rank in each
        ]
        self.locals = [program.local for program in self.programs if program.local is not None]
        self._around = plan.problem.captured.autocast
        for group in mesh.groups:
            group.close()
        names = [p.node for p in plan.problem.captured.placeholders]
        self.written = [names.index(o.buffer) for o in plan.problem.captured.outputs if o.buffer is not None]
        self.loss = next((o.position for o in plan.problem.captured.outputs if o.name == "loss"), 0)

    def run(self, inputs: Sequence) -> list[tuple]:
        """Every rank's outputs and the gradients of its inputs (None where there is none), from the
        captured graph's inputs on whole tensors."""
        copies: dict[int, list] = {}

        def body(rank: int):
            own = copies[rank] = [_own(x) for x in inputs]
            with under(self._around):
                outputs = self.locals[rank](*own)
            loss = outputs[self.loss]
            if isinstance(loss, torch.Tensor) and loss.requires_grad:
                with torch.autograd.set_multithreading_enabled(False):  # a GPU's one thread would run all ranks'
                    loss.backward()
            return outputs, [x.grad if isinstance(x, torch.Tensor) else None for x in own]

        results = self._mesh.run(body)
        for i in self.written:
            assert all(torch.equal(own[i], copies[0][i]) for own in copies.values()), "a buffer differs between ranks"
            inputs[i].copy_(copies[0][i])
        return results


def simulate(plan: Plan, inputs: Sequence, *, complete: bool = True, grad_scale: float = 1.0) -> list[tuple]:
    """A simulation that is run once."""
    return Simulation(plan, complete=complete, grad_scale=grad_scale).run(inputs)


def _own(x):
    """A rank's copy of an input; the example's number for a symbol."""
    if isinstance(x, torch.Tensor):
        return x.detach().clone().requires_grad_(x.requires_grad)
    return example_size(x)
