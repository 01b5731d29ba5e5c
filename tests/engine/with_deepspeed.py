"""DeepSpeed engines of two ranks, by name: what their configuration does wrong, and what they train."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.distributed as dist

import autosp
from autosp.deepspeed import prepare_autosp_inputs
from tests.engine import misuse
from tests.engine.paths import figures, saved_by_the_first_rank, without_search
from tests.engine.tiny import RATE, Renamed, Tiny, batch, train
from tests.execute.reference import loss_error

ALIVE: list = []  # of one case, to be destroyed after it
PASS = {"deepcompile": True, "passes": ["autosp"]}


def engine(model: torch.nn.Module | None = None, stage: int = 1, data=None, **config):
    import deepspeed

    model = model or Tiny()
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "compile": PASS,
        "sequence_parallel_size": 2,
        **config,
    }
    config = {key: value for key, value in config.items() if value is not None}
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    made = deepspeed.initialize(model=model, optimizer=optimizer, config=config, training_data=data)
    ALIVE.append(made[0])
    return made


def refused(**config) -> Callable[[], None]:
    made, *_ = engine(**config)
    return lambda: autosp.compile(made, "causal_lm", backend="aot_eager")


MISUSE = {
    "passes_without_autosp": lambda: refused(compile={"deepcompile": True}),
    "deepcompile_is_off": lambda: refused(compile={"deepcompile": False, "passes": ["autosp"]}),
    "no_compile_section": lambda: refused(compile=None),
    "zero_2": lambda: refused(stage=2),
    "zero_3": lambda: refused(stage=3),
    "no_size": lambda: refused(sequence_parallel_size=None),
    "size_does_not_divide": lambda: refused(sequence_parallel_size=3),
    "all_at_once": lambda: refused(stage=3, compile={"deepcompile": True}, sequence_parallel_size=3),
    "another_mesh": lambda: other_mesh(("dp", "sp")),
    "a_mesh_without_the_axis": lambda: other_mesh(("dp", "ps")),
    "gradients_in_the_backward": lambda: reduces_itself(),
    "sampled_by_the_global_rank": lambda: sampled_by_the_global_rank(),
}


def other_mesh(names: tuple[str, str]) -> Callable[[], None]:
    made, *_ = engine()
    mesh = dist.init_device_mesh("cpu", (2, 1), mesh_dim_names=names)
    return lambda: autosp.compile(made, "causal_lm", mesh=mesh)


def reduces_itself() -> Callable[[], None]:
    made, *_ = engine()
    return lambda: autosp.compile(made, "causal_lm", grad_reduce="backward")


def sampled_by_the_global_rank() -> Callable[[], None]:
    """The loader that DeepSpeed makes by itself knows nothing of sp groups."""
    made, _, loader, _ = engine(data=[{k: v[0] for k, v in batch(i).items()} for i in range(8)])
    autosp.compile(made, "causal_lm", backend="aot_eager")
    return lambda: made(**next(iter(loader)))


def meet(name: str) -> misuse.Met:
    misuse.CASES.update(MISUSE)
    return misuse.meet(name)


def trained(made, batches: list[dict], call: Callable | None = None) -> list[float]:
    losses = []
    for each in batches:
        loss = (call or made)(**each).loss
        made.backward(loss)
        made.step()
        losses.append(float(loss.detach()))
    return losses


def reference(batches: list[dict]) -> tuple[Tiny, list[float]]:
    eager = Tiny()
    return eager, train(eager, batches)


def two_engines() -> dict:
    """In one process, the second after the first has trained, then in turns; beside one of ZeRO 3."""
    engine(zero_optimization={"stage": 3, "memory_efficient_linear": False})
    batches = [batch(i) for i in range(3)]
    eager, losses = reference(batches)
    one, *_ = engine()
    autosp.compile(one, "causal_lm", backend="aot_eager")
    first = trained(one, batches[:2])
    two, *_ = engine(stage=0)
    autosp.compile(two, "causal_lm", backend="aot_eager")
    second = trained(two, batches)
    first += trained(one, batches[2:])
    own = one.autosp_plan is not two.autosp_plan
    found = figures(eager, losses, one.module, first)
    return found | {"second": loss_error(tuple(losses), tuple(second)) / 1e-5, "own_plans": own}


def beside_a_zero_3_engine() -> dict:
    """ZeRO 3 replaces torch.nn.functional.linear in the whole process, by a function with its own backward."""
    batches = [batch(i) for i in range(2)]
    eager, losses = reference(batches)
    engine(stage=3)
    made, *_ = engine()
    autosp.compile(made, "causal_lm", backend="aot_eager")
    got = trained(made, batches)
    own = [op for op in made.autosp_plan.problem.ops if op.own is not None]
    return figures(eager, losses, made.module, got) | {"split": len(own) == 3}


def drop_in() -> dict:
    """A script written for DeepSpeed's pass: its inputs are marked, no spec names them."""
    batches = [batch(i) for i in range(2)]
    eager, losses = reference(batches)
    made, *_ = engine(Renamed())
    autosp.compile(made, backend="aot_eager")

    def call(input_ids, labels):
        tokens, targets, _, _ = prepare_autosp_inputs(input_ids, labels, None, None, seq_dim=1)
        return made(tokens, targets)

    got = trained(made, batches, call)
    split = any(reshard.kind == "all_to_all" for reshard in made.autosp_plan.reshards)
    return figures(eager, losses, made.module, got) | {"split": split}


def loader() -> dict:
    """DeepSpeed's loader over our sampler, and evaluation on the engine."""
    data = [{k: v[0] for k, v in batch(i).items()} for i in range(8)]
    made, *_ = engine()
    autosp.compile(made, "causal_lm", backend="aot_eager")
    sampler = autosp.engine.sampler(data, made, shuffle=False)
    batches = list(itertools.islice(made.deepspeed_io(data, data_sampler=sampler), 2))
    eager, losses = reference(batches)
    found = figures(eager, losses, made.module, trained(made, batches))
    eager.eval(), made.eval()
    with torch.no_grad():
        expected, got = eager(batch(9)["input_ids"]), made(input_ids=batch(9)["input_ids"])
    logits = float((expected.logits - got.logits).abs().max()) / 1e-5
    return found | {"logits": logits, "loss_in_eval": got.loss}


def calls() -> dict:
    """Training with labels, a generation in between, and a loss outside of the model from its logits, on one engine."""
    from tests.engine.calls import llama, outside, preferred

    bare = [{"input_ids": batch(i)["input_ids"]} for i in range(2)]
    ask = dict(input_ids=batch(5, 12)["input_ids"], max_new_tokens=5, do_sample=False)
    eager = llama()
    losses = train(eager, [batch(0)])
    tokens = eager.eval().generate(**ask).tolist()
    losses += outside(eager.train(), bare, preferred)

    made, *_ = engine(llama(), gradient_clipping=0.0)
    autosp.compile(made, backend="aot_eager")
    got = trained(made, [batch(0)])
    made.eval()
    same = made.module.generate(**ask).tolist() == tokens
    made.train()
    for each in bare:
        loss = preferred(made(**each), each)
        made.backward(loss)
        made.step()
        got.append(float(loss.detach()))
    return figures(eager, losses, made.module, got) | {"split": same}


def by_a_saved_plan() -> dict:
    """A plan of one engine runs another, without a search."""
    batches = [batch(i) for i in range(2)]
    eager, losses = reference(batches)
    first, *_ = engine()
    trained(autosp.compile(first, "causal_lm", backend="aot_eager"), batches[:1])
    file = saved_by_the_first_rank(first.autosp_plan)
    made, *_ = engine()
    autosp.compile(made, "causal_lm", backend="aot_eager", plan=file)
    return figures(eager, losses, made.module, without_search(lambda: trained(made, batches)))


TRAINED = {
    "by_a_saved_plan": by_a_saved_plan,
    "two_engines": two_engines,
    "beside_a_zero_3_engine": beside_a_zero_3_engine,
    "drop_in": drop_in,
    "loader": loader,
    "calls": calls,
}


def run(name: str) -> object:
    try:
        return meet(name) if name in MISUSE else TRAINED[name]()
    finally:
        while ALIVE:
            ALIVE.pop().destroy()
        torch.nn.functional.linear = torch._C._nn.linear  # a ZeRO 3 engine does not put it back
