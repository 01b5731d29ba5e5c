"""What one rank of two does wrong, by name: each gives the error it met, and the collectives before it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import attrs
import torch
import torch.distributed as dist

import autosp
from autosp.engine import dynamo_backend
from tests.engine.tiny import Renamed, Tiny, batch

BROKEN = "mesh [dp: local, sp]\ninput input_ids [batch@dp, seq@ps]\n"
LAST = {"rank_1_compiles_alone"}  # ends the process group
CASES: dict[str, Callable[[], None]] = {}


@attrs.frozen
class Met:
    """The error of one rank, how many collectives its groups ran up to it, and how long it took."""

    kind: str
    text: str
    collectives: int
    seconds: float


def case(function: Callable[[], object]) -> Callable[[], object]:
    CASES[function.__name__] = function
    return function


def meet(name: str) -> Met:
    """Runs a case; then shows that the ranks still understand each other."""
    setup = CASES[name]
    act = setup()
    before, began = _collectives(), time.monotonic()
    try:
        act()
    except Exception as e:
        met = Met(type(e).__name__, str(e), _collectives() - before, time.monotonic() - began)
    else:
        raise AssertionError(f"{name} met no error")
    if name in LAST:
        dist.destroy_process_group()  # what the end of the process would do
    else:
        total = torch.tensor(float(dist.get_rank()))
        dist.all_reduce(total)
        assert float(total) == sum(range(dist.get_world_size()))
    return met


def _collectives() -> int:
    groups = {g.group_name: g for g in dist.distributed_c10d._world.pg_map}
    return sum(g._get_sequence_number_for_group() for g in groups.values() if dist.get_rank(g) >= 0)


def _mesh() -> dist.device_mesh.DeviceMesh:
    return dist.init_device_mesh("cpu", (1, 2), mesh_dim_names=("dp", "sp"))


def _compiled(model: torch.nn.Module, spec: str = "causal_lm") -> torch.nn.Module:
    return autosp.compile(model, spec, mesh=_mesh(), backend="aot_eager")


def _one() -> bool:
    return dist.get_rank() == 1


@case
def labels_are_shorter_everywhere():
    model, given = _compiled(Tiny()), batch()
    return lambda: model(input_ids=given["input_ids"], labels=given["labels"][:, :30])


@case
def labels_are_shorter_on_rank_1():
    model, given = _compiled(Tiny()), batch()
    return lambda: model(input_ids=given["input_ids"], labels=given["labels"][:, : 30 if _one() else 32])


@case
def batches_differ():
    model = _compiled(Tiny())
    return lambda: model(**batch(step=dist.get_rank()))


@case
def batches_differ_in_length():
    model = _compiled(Tiny())
    return lambda: model(**batch(length=24 if _one() else 32))


@case
def mask_on_one_rank_only():
    model, given = _compiled(Tiny()), batch()
    mask = {"attention_mask": torch.ones_like(given["input_ids"])} if _one() else {}
    return lambda: model(**given, **mask)


@case
def batches_differ_later():
    """With AUTOSP_CHECK=1 every call is compared."""
    model = _compiled(Tiny())
    model(**batch()).loss.backward()

    def act():
        os.environ["AUTOSP_CHECK"] = "1"
        try:
            model(**batch(step=dist.get_rank()))
        finally:
            del os.environ["AUTOSP_CHECK"]

    return act


class Branching(Tiny):
    def forward(self, input_ids, labels=None):
        if input_ids.sum() > 0:
            input_ids = input_ids + 0
        return super().forward(input_ids, labels)


@case
def model_branches_on_values():
    model = _compiled(Branching())
    return lambda: model(**batch())


@case
def sharded_by_fsdp_before():
    from torch.distributed.fsdp import fully_shard

    model, mesh = Tiny(), _mesh()
    fully_shard(model, mesh=mesh["sp"])
    return lambda: autosp.compile(model, "causal_lm", mesh=mesh, backend="aot_eager")


@case
def sharded_by_fsdp_after():
    from torch.distributed.fsdp import fully_shard

    model = _compiled(Tiny())
    fully_shard(model, mesh=_mesh()["sp"])
    return lambda: model(**batch())


class Unlucky(Tiny):
    def forward(self, input_ids, labels=None):
        if _one():
            raise ValueError("out of luck")
        return super().forward(input_ids, labels)


@case
def forward_raises_on_rank_1():
    model = _compiled(Unlucky())
    return lambda: model(**batch())


@case
def models_differ():
    tiny = Tiny()
    if _one():
        tiny.head = torch.nn.Sequential(tiny.head, torch.nn.Tanh())
    model = _compiled(tiny)
    return lambda: model(**batch())


@case
def spec_is_wrong_on_rank_1():
    def act():
        model = _compiled(Tiny(), BROKEN if _one() else "causal_lm")
        model(**batch())

    return act


@case
def rank_1_is_late():
    model = _compiled(Tiny())

    def act():
        os.environ["AUTOSP_TIMEOUT"] = "0.3"
        try:
            if _one():
                time.sleep(1.0)
            model(**batch())
        finally:
            del os.environ["AUTOSP_TIMEOUT"]

    return act


@case
def mark_names_no_axis():
    model = autosp.compile(Renamed(), mesh=_mesh(), backend="aot_eager")
    ids = autosp.annotate(batch()["input_ids"], "[batch@dp, seq@ps]")
    return lambda: model(tokens=ids, targets=ids)


@case
def mark_contradicts_the_spec():
    model, given = _compiled(Tiny()), batch()
    autosp.annotate(given["labels"], "[batch@sp, seq]")
    return lambda: model(**given)


@case
def nothing_is_marked():
    model, ids = autosp.compile(Renamed(), mesh=_mesh(), backend="aot_eager"), batch()["input_ids"]
    return lambda: model(ids, ids)


@case
def rank_1_compiles_alone():
    """Rank 0 is in a collective by then; the end of rank 1 frees it, and its error says why."""
    model = _compiled(Tiny())
    model(**batch()).loss.backward()
    return lambda: model(**batch(step=1, length=24 if _one() else 32))


def _recompiled(fails: str, rank: int, error: Exception, **options) -> Callable[[], None]:
    """A second length, whose first try to compile (for all lengths) meets an error on one rank, at a function."""
    model = autosp.compile(Tiny(), "causal_lm", mesh=_mesh(), backend="aot_eager", **options)
    model(**batch()).loss.backward()
    real, tries = getattr(dynamo_backend, fails), []

    def failing(*args, **kwargs):
        tries.append(1)
        if dist.get_rank() == rank and len(tries) == 1:
            raise error
        return real(*args, **kwargs)

    def act():
        setattr(dynamo_backend, fails, failing)
        try:
            model(**batch(length=40))
        finally:
            setattr(dynamo_backend, fails, real)

    return act


@case
def disk_is_full_on_rank_1_for_all_lengths():
    """After all that ranks compare in between: the other's try went well."""
    return _recompiled("compile_inner", 1, OSError("No space left on device"))


@case
def memory_is_short_on_rank_0_for_all_lengths():
    """Before the other asks it for what is recomputed."""
    return _recompiled("capture", 0, torch.OutOfMemoryError("out of memory"))


@case
def memory_is_short_on_rank_1_for_all_lengths():
    return _recompiled("capture", 1, torch.OutOfMemoryError("out of memory"), recompute="sac")
