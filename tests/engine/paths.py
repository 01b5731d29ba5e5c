"""Ways to call a compiled model, by name; each rank gives figures against plain eager PyTorch on whole batches."""

from __future__ import annotations

import copy
import importlib
import io
import tempfile
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import autosp
from autosp.solve import Plan
from tests.engine.tiny import Renamed, Tiny, batch, train
from tests.execute.reference import compare, loss_error, snapshot

PATHS: dict[str, Callable[[], dict]] = {}


def path(function: Callable[[], dict]) -> Callable[[], dict]:
    PATHS[function.__name__] = function
    return function


def walk(name: str) -> dict:
    return PATHS[name]()


def mesh(dp: int = 1) -> dist.device_mesh.DeviceMesh:
    return dist.init_device_mesh("cpu", (dp, dist.get_world_size() // dp), mesh_dim_names=("dp", "sp"))


def compiled(model: torch.nn.Module, spec: str | None = "causal_lm", dp: int = 1, **options) -> torch.nn.Module:
    return autosp.compile(model, spec, **{"mesh": mesh(dp), "backend": "aot_eager", **options})


def figures(expected: torch.nn.Module, losses: list[float], model: torch.nn.Module, got: list[float]) -> dict:
    """How far the losses and the worst parameter are from the reference, both relative to their bars."""
    return {
        "loss": loss_error(tuple(losses), tuple(got)) / 1e-5,
        "parameter": compare(snapshot(expected), snapshot(model)).ratio,
        "losses": got,
    }


def plans(model: torch.nn.Module) -> int:
    """How many times the model was compiled."""
    return len(model._compiled_call_impl.backend.plans)


def over_lengths(lengths: list[int], dynamic: bool | None, **options) -> dict:
    batches = [batch(i, length) for i, length in enumerate(lengths)]
    eager, model, counts = Tiny(), compiled(Tiny(), dynamic=dynamic, **options), []

    def call(**each):
        out = model(**each)
        counts.append(plans(model))
        return out

    return figures(eager, train(eager, batches), model, train(model, batches, call=call)) | {"plans": counts}


@path
def lengths_static() -> dict:
    return over_lengths([32, 37, 32, 37], dynamic=None)


def each_length(place: str, name: str, calls: list[int], **options) -> dict:
    """Lengths of which none can be compiled for all: where it is tried, a function of a module fails."""
    module, tried = importlib.import_module(place), []
    real = getattr(module, name)

    def failing(*args, **kwargs):
        tried.append(name)
        if len(tried) in calls:
            raise NotImplementedError("not with symbols")
        return real(*args, **kwargs)

    setattr(module, name, failing)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = over_lengths([32, 37, 40, 37], dynamic=None, **options)
    finally:
        setattr(module, name, real)
    return found | {"said": [str(w.message) for w in caught if "all lengths" in str(w.message)]}


@path
def lengths_each_by_itself() -> dict:
    """Both ranks fail alike, try after try: the first compilation is for one length; one of all is refused twice."""
    return each_length("autosp.engine.dynamo_backend", "compile_inner", [2, 4])


@path
def lengths_each_by_itself_where_the_first_decides() -> dict:
    """What is recomputed is found by the first rank alone; its failure is the group's."""
    return each_length("autosp.engine.recomputing", "decide", [2, 4], recompute="sac")


@path
def lengths_dynamic() -> dict:
    """Uneven ones too: each rank holds another length, and both compile once."""
    return over_lengths([37, 38, 41, 64], dynamic=True)


@path
def accumulation() -> dict:
    batches = [batch(i) for i in range(4)]
    eager, model = Tiny(), compiled(Tiny())
    return figures(eager, train(eager, batches, accumulate=2), model, train(model, batches, accumulate=2))


@path
def marked_positional_inputs() -> dict:
    """A backend for torch.compile: no spec names the inputs, nothing of autosp wraps the model."""
    eager, model = Tiny(), Renamed()
    program = torch.compile(model, backend=autosp.backend("causal_lm", mesh(), backend="aot_eager"), fullgraph=True)

    def call(input_ids, labels):
        return program(autosp.annotate(input_ids, "[batch@dp, seq@sp]"), autosp.annotate(labels, "[batch@dp, seq@sp]"))

    batches = [batch(i) for i in range(2)]
    return figures(eager, train(eager, batches), model, train(model, batches, call=call))


@path
def marked_inputs_of_a_compiled_model() -> dict:
    eager, model = Tiny(), compiled(Renamed(), spec=None)

    def call(input_ids, labels):
        return model(autosp.annotate(input_ids, "[batch@dp, seq@sp]"), autosp.annotate(labels, "[batch@dp, seq@sp]"))

    batches = [batch(i) for i in range(2)]
    found = figures(eager, train(eager, batches), model, train(model, batches, call=call))
    return found | {"split": any(reshard.kind == "all_to_all" for reshard in model.autosp_plan.reshards)}


@path
def evaluation_after_training() -> dict:
    eager, model = Tiny(), compiled(Tiny())
    assert not hasattr(model, "autosp_plan")
    found = figures(eager, train(eager, [batch()]), model, train(model, [batch()]))
    plan = model.autosp_plan
    eager.eval(), model.eval()
    with torch.no_grad():
        expected, got, bare = eager(**batch(1)), model(**batch(1)), model(input_ids=batch(1)["input_ids"])
    model.train()
    again = model(**batch(1))
    return found | {
        "plan": plan.p == dist.get_world_size(),
        "eval_loss": abs(float(expected.loss - got.loss)) / float(expected.loss) / 1e-5,
        "eval_logits": float((expected.logits - got.logits).abs().max()) / 1e-5,
        "bare_logits": float((expected.logits - bare.logits).abs().max()) / 1e-5,
        "bare_loss": bare.loss,
        "training_logits": type(again.logits).__name__,
        "back_in_training": abs(float(expected.loss - again.loss.detach())) / float(expected.loss) / 1e-5,
    }


@path
def two_models_in_turn() -> dict:
    """Each has its own plan; their calls take turns."""
    eager, one, two = Tiny(), compiled(Tiny()), compiled(Tiny(), dynamic=True)
    losses = train(eager, [batch(i) for i in range(2)])
    others: list[float] = []

    def call(**each):
        others.append(float(two(**each).loss.detach()))
        return one(**each)

    got = train(one, [batch(i) for i in range(2)], call=call)
    assert one.autosp_plan is not two.autosp_plan
    return figures(eager, losses, one, got) | {"first": abs(others[0] - losses[0]) / losses[0] / 1e-5}


@path
def ddp_over_dp_and_sp() -> dict:
    """Gradients that are whole on each rank of an sp group, averaged by DDP over the world."""
    place = mesh(dp=2)
    eager, model = Tiny(), autosp.compile(Tiny(), "causal_lm", mesh=place, backend="aot_eager")
    wrapped = DistributedDataParallel(model)
    losses = _mean_over_dp(eager, 2)
    got = torch.tensor(train(wrapped, [batch(i, dp_rank=place.get_local_rank("dp")) for i in range(3)]))
    dist.all_reduce(got)
    return figures(eager, losses, model, (got / dist.get_world_size()).tolist())


def _mean_over_dp(model: torch.nn.Module, dp: int) -> list[float]:
    def call(step: int):
        losses = [model(**batch(step, dp_rank=rank)).loss for rank in range(dp)]
        return SimpleNamespace(loss=sum(losses) / dp)

    return train(model, [{"step": i} for i in range(3)], call=call)


@path
def copies_after_a_step() -> dict:
    """A compiled model is copied, averaged, saved and loaded like one that is not; a copy runs as plain PyTorch."""
    eager, model = Tiny(), compiled(Tiny())
    found = figures(eager, train(eager, [batch()]), model, train(model, [batch()]))
    kept = io.BytesIO()
    torch.save(model, kept)
    kept.seek(0)
    made = {
        "copied": copy.deepcopy(model),
        "averaged": torch.optim.swa_utils.AveragedModel(model),
        "loaded": torch.load(kept, weights_only=False),
    }
    expected = eager(**batch(1)).loss.detach()
    apart = {
        name: float((each(**batch(1)).loss.detach() - expected).abs() / expected) / 1e-5 for name, each in made.items()
    }
    return found | apart | {"plans": [made["copied"].autosp_plan is model.autosp_plan, made["loaded"].autosp_plan]}


def without_search(change: Callable[[], Any]) -> Any:
    """What `change` gives where this rank's solver must not search."""
    solver = importlib.import_module("autosp.solve.solver")
    real = solver._choose

    def refused(*args):
        raise AssertionError(f"rank {dist.get_rank()} searched")

    solver._choose = refused
    try:
        return change()
    finally:
        solver._choose = real


@path
def plan_of_the_first_rank() -> dict:
    """The second rank takes what the first one finds."""
    eager, model, batches = Tiny(), compiled(Tiny()), [batch(i) for i in range(3)]
    call = model if dist.get_rank() == 0 else lambda **each: without_search(lambda: model(**each))
    return figures(eager, train(eager, batches), model, train(model, batches, call=call))


@path
def plan_of_an_earlier_run() -> dict:
    """No rank searches; what is saved for the backward, and the tiles, are the saved plan's too."""
    batches = [batch(i) for i in range(3)]
    eager, first = Tiny(), compiled(Tiny(), recompute="sac")
    train(first, batches[:1])
    file = saved_by_the_first_rank(first.autosp_plan)
    decide = importlib.import_module("autosp.engine.recomputing")
    real, decide.decide = decide.decide, None
    try:
        model = compiled(Tiny(), recompute="sac", plan=file)
        losses = without_search(lambda: train(model, batches))
    finally:
        decide.decide = real
    same = model.autosp_plan.fingerprint() == first.autosp_plan.fingerprint()
    return figures(eager, train(eager, batches), model, losses) | {"same": same}


@path
def plan_made_before_there_was_a_process_group() -> dict:
    """`autosp.plan` knows no mesh; its plan runs on one. A second model finds the first one's program in PyTorch's cache."""
    batches = [batch(i) for i in range(3)]
    options = {"device": "cpu", "recompute": "sac"}
    plan = autosp.plan(Tiny(), batches[0], "causal_lm", sp=dist.get_world_size(), dtype=torch.float32, **options)
    options |= {"backend": "inductor", "mesh": mesh(), "plan": saved_by_the_first_rank(plan)}
    eager, model, again = Tiny(), compiled(Tiny(), **options), compiled(Tiny(), **options)
    losses = without_search(lambda: train(model, batches))
    torch._dynamo.reset()
    repeated = without_search(lambda: train(again, batches))
    found = figures(eager, train(eager, batches), model, losses)
    equal = compare(snapshot(model), snapshot(again)).ratio == 0 and losses == repeated
    return found | {"equal": equal, "said": str(autosp.measure(again).compiled).rpartition("; ")[2]}


def saved_by_the_first_rank(plan: Plan) -> str:
    """The path of the file, once it is written."""
    paths = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(paths)
    file = f"{paths[0]}/plan.json"
    if dist.get_rank() == 0:
        plan.save(file)
    dist.barrier()
    return file
