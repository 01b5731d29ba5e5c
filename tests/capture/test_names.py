"""Modules, parameters and buffers go by the model's own names, however its forward is reached."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.checkpoint import checkpoint

import autosp
from autosp import passes
from autosp.capture import Captured, capture, name_modules, tracing
from autosp.capture.captured import paths_of
from autosp.engine.planning import planned
from autosp.errors import AutospError, CaptureError
from autosp.parity import simulate
from autosp.sharding import MeshAxis
from autosp.solve import Ends, load_device, solve
from autosp.spec import Spec, parse
from autosp.spec.paths import nearest

HEAD = "mesh [dp: local, sp]\ninput input_ids [batch@dp, seq@sp]\ninput labels [batch@dp, seq@sp]\noutput loss []\n"
CONSTRAIN = "constrain {} output [batch@dp, seq@sp, hidden]\n"
MAP = "map {} over seq\n"
VOCAB, HIDDEN = 24, 8


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(HIDDEN, 12), nn.Linear(12, HIDDEN)
        self.register_buffer("scale", torch.rand(12) + 0.5)
        self.shift = torch.rand(12)  # a tensor that no table of the module holds

    def forward(self, x):
        return self.down(torch.sin(self.up(x) * self.scale + self.shift))


class Net(nn.Module):
    """Names with digits, in a list and in a dict."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.head = nn.Embedding(VOCAB, HIDDEN), nn.Linear(HIDDEN, VOCAB, bias=False)
        self.layers = nn.ModuleList(Mlp() for _ in range(2))
        self.routes = nn.ModuleDict({"a_1": Mlp(), "2": Mlp()})

    def forward(self, input_ids, labels):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = x + layer(x)
        x = self.routes["a_1"](x) + self.routes["2"](x)
        return F.cross_entropy(self.head(x).flatten(0, 1), labels.flatten())


def decorated(f: Callable) -> Callable:
    """As transformers decorates the forwards of its decoders."""

    @functools.wraps(f)
    def wrapper(*args, **kwargs):
        return f(*args, **kwargs)

    return wrapper


class Decorated(Net):
    forward = decorated(Net.forward)


class Shared(Net):
    """One module under two names, and one that is called twice."""

    def __init__(self):
        super().__init__()
        self.layers.append(self.layers[1])
        self.twice = Mlp()

    def forward(self, input_ids, labels):
        return super().forward(input_ids, labels) + self.twice(self.twice(self.head.weight)).mean()


class Checkpointed(Net):
    def forward(self, input_ids, labels):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False)
        return F.cross_entropy(self.head(x).flatten(0, 1), labels.flatten())


class Outer(nn.Module):
    """A model inside a model, one called through, the other's parts alone."""

    def __init__(self):
        super().__init__()
        self.m, self.other = Net(), Decorated(1)
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, input_ids, labels):
        return self.m(input_ids, labels) * self.weight + self.other.layers[1](self.m.head.weight).mean()


class Hidden(nn.Module):
    """A model that `named_modules` does not list, beside one that it does."""

    def __init__(self):
        super().__init__()
        self.m, self.plain = Net(), [Net(1), Net(2)]

    def forward(self, input_ids, labels):
        return self.m(input_ids, labels) + self.plain[1](input_ids, labels)


class Trainer:
    def __init__(self, **models):
        self.__dict__.update(models)

    def loss(self, input_ids, labels):
        return self.model(input_ids, labels)

    def margin(self, input_ids, labels):
        return self.model(input_ids, labels) - self.reference(input_ids, labels)


@attrs.frozen(eq=False)
class Case:
    """What is compiled, and the models whose names are expected, by what stands before these."""

    call: Callable
    trees: Mapping[str, nn.Module]
    model: nn.Module | None = None  # what `autosp.compile` knows; None for a bare backend
    positional: bool = False


def closure(model: nn.Module) -> Callable:
    def step(input_ids, labels):
        return model(input_ids, labels)

    return step


def of_two(policy: nn.Module, reference: nn.Module) -> Callable:
    def step(input_ids, labels):
        return policy(input_ids, labels) - reference(input_ids, labels)

    return step


def in_list(models: list[nn.Module]) -> Callable:
    return lambda input_ids, labels: models[0](input_ids, labels) - models[1](input_ids, labels)


def of_parts(model: nn.Module) -> Callable:
    embed, layer = model.embed, model.layers[1]

    def step(input_ids, labels):
        return F.cross_entropy(model.head(layer(embed(input_ids))).flatten(0, 1), labels.flatten())

    return step


def with_teacher() -> nn.Module:
    teacher = Net(1)

    class Student(Net):
        def forward(self, input_ids, labels):
            return super().forward(input_ids, labels) - teacher(input_ids, labels)

    Student.teacher_of_the_test = staticmethod(lambda: teacher)
    return Student()


def patched(model: nn.Module) -> nn.Module:
    model.forward = decorated(model.forward)
    return model


def with_compiled_layer() -> nn.Module:
    model = Net()
    model.layers[1] = torch.compile(model.layers[1], backend="eager")
    return model


def known(model: nn.Module, **kw: Any) -> Case:
    return Case(model, {"": model}, model, **kw)


def bare(call: Callable, positional: bool = False, **trees: nn.Module) -> Case:
    return Case(call, {k.replace("__", "."): m for k, m in trees.items()} or {"": call}, positional=positional)


def alone(make: Callable, model: nn.Module) -> Case:
    return Case(make(model), {"": model})


def student() -> Case:
    model = with_teacher()
    return Case(model, {"": model, "teacher": model.teacher_of_the_test()}, model)


def two(make: Callable, *names: str) -> Case:
    models = Net(), Decorated(1)
    return Case(make(*models), dict(zip(names, models, strict=True)))


CASES: dict[str, Callable[[], Case]] = {
    "known": lambda: known(Net()),
    "known, decorated": lambda: known(Decorated()),
    "known, forward replaced": lambda: known(patched(Net())),
    "known, shared parts": lambda: known(Shared()),
    "known, a model inside": lambda: known(Outer()),
    "known, a hidden model": lambda: known(Hidden()),
    "known, checkpointed": lambda: known(Checkpointed()),
    "known, a compiled layer": lambda: known(with_compiled_layer()),
    "known, a teacher beside it": student,
    "a model": lambda: bare(Net()),
    "a model's bound forward": lambda: (lambda m: Case(m.forward, {"": m}))(Net()),
    "decorated": lambda: bare(Decorated()),
    "decorated, called by position": lambda: bare(Decorated(), positional=True),
    "forward replaced, called by position": lambda: bare(patched(Net()), positional=True),
    "a closure": lambda: alone(closure, Decorated()),
    "a decorated closure": lambda: alone(lambda m: decorated(closure(m)), Net()),
    "a method of a trainer": lambda: alone(lambda m: Trainer(model=m).loss, Decorated()),
    "a compiled model": lambda: alone(lambda m: closure(torch.compile(m, backend="eager")), Decorated()),
    "parts of a model": lambda: alone(of_parts, Net()),
    "two models": lambda: two(of_two, "policy", "reference"),
    "two models, decorated": lambda: two(lambda a, b: decorated(of_two(a, b)), "policy", "reference"),
    "two models in a list": lambda: two(lambda a, b: in_list([a, b]), "models.0", "models.1"),
    "two models of a trainer": lambda: two(
        lambda a, b: Trainer(model=a, reference=b).margin, "self.model", "self.reference"
    ),
}


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(VOCAB, (2, 9), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "labels": ids.roll(1, 1)}


def captured(case: Case, lines: str = "", dynamic: bool = False) -> tuple[Captured, tuple]:
    """What a backend gets of the call, as `autosp.backend` and `autosp.compile` hand it on."""
    spec, found = parse(HEAD + lines), []

    def backend(gm, example_inputs):
        names = name_modules(gm, example_inputs, case.model)
        made = capture(
            gm, example_inputs, layout_of=lambda name, x: spec.input(name) and spec.input(name).layout,
            dynamic=dynamic, names=names,
        )  # fmt: skip
        options = passes.Context(constraints=spec.constraints, maps=spec.maps)
        made = passes.run(passes.Program(made), options, until="outline_mapped").captured
        found.append((made, tuple(example_inputs)))
        return gm.forward

    torch.compiler.reset()
    run = torch.compile(case.call, backend=backend, fullgraph=True, dynamic=dynamic)
    try:
        with tracing(case.call):
            run(*batch().values()) if case.positional else run(**batch())
    except Exception as error:
        raise (getattr(error, "inner_exception", error)) from None
    (one,) = found
    return one


def tensors(case: Case) -> dict[str, torch.Tensor]:
    """Parameters and buffers by the names that the models give them."""
    found = {}
    for prefix, model in case.trees.items():
        for name, x in [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]:
            found[f"{prefix}.{name}".lstrip(".")] = x
    return found


def paths(case: Case) -> set[str]:
    """Every module path, and '' for what is in no module."""
    return {""} | {
        f"{prefix}.{path}".strip(".")
        for prefix, model in case.trees.items()
        for path, _ in model.named_modules(remove_duplicate=False)
    }


@pytest.mark.parametrize("name", CASES)
def test_names_are_those_of_the_models_and_a_split_is_exact(name: str):
    """All ranks in one process: loss and gradients by name, against eager."""
    case = CASES[name]()
    graph, inputs = captured(case)
    own = tensors(case)
    assert {p.name for p in graph.placeholders if p.role == "input"} == {"input_ids", "labels"}
    for p, x in zip(graph.placeholders, inputs, strict=True):
        if p.role == "param":
            assert isinstance(x, nn.Parameter)
        if p.role in ("param", "buffer") and not p.name.endswith(".shift") and ".plain." not in f".{p.name}":
            assert own[p.name] is x, p.name
    plan = solve(graph, Ends(("whole",)), axis=MeshAxis("sp", 2), device=load_device("cpu"))
    loss = case.call(**batch())
    given = [x for p, x in zip(graph.placeholders, inputs, strict=True) if p.role == "param"]
    wanted = iter(torch.autograd.grad(loss, given))
    wanted = {p.name: next(wanted) for p in graph.placeholders if p.role == "param"}
    for outputs, gradients in simulate(plan, inputs):
        torch.testing.assert_close(outputs[0], loss, rtol=1e-5, atol=1e-6)
        for p, gradient in zip(graph.placeholders, gradients, strict=True):
            if p.role == "param":
                torch.testing.assert_close(gradient, wanted[p.name], rtol=1e-5, atol=1e-7)
    told = {r.module for r in plan.reshards} | {path for n in graph.graph.graph.nodes for path in paths_of(n)}
    assert not {path for path in told - paths(case) if not path.startswith("plain.1")}


def constrained(graph: Captured) -> list[str]:
    """The modules of the constraints in a graph, in order."""
    target = torch.ops.autosp.constrain.default
    return [graph.module(n) for n in graph.graph.graph.nodes if n.target is target]


@pytest.mark.parametrize(
    ("name", "pattern", "fixed"),
    [
        ("known", "layers.*", ["layers.0", "layers.1"]),
        ("known, decorated", "layers.*.up", ["layers.0.up", "layers.1.up"]),
        ("known, forward replaced", "routes.2", ["routes.2"]),
        ("known, shared parts", "layers.*", ["layers.0", "layers.1", "layers.2"]),
        ("known, shared parts", "layers.2", ["layers.2"]),
        ("known, a model inside", "m.layers.1", ["m.layers.1"]),
        ("known, checkpointed", "layers.*", ["layers.0", "layers.1"]),
        ("known, a compiled layer", "layers.1._orig_mod.up", ["layers.1._orig_mod.up"]),
        ("known, a teacher beside it", "teacher.layers.0", ["teacher.layers.0"]),
        ("decorated", "layers.1", ["layers.1"]),
        ("a compiled model", "layers.*", ["layers.0", "layers.1"]),
        ("parts of a model", "layers.*", ["layers.1"]),
        ("two models", "*.routes.2", ["policy.routes.2", "reference.routes.2"]),
        ("two models in a list", "models.1.layers.0", ["models.1.layers.0"]),
    ],
)
def test_a_pattern_finds_the_modules(name: str, pattern: str, fixed: list[str]):
    graph, _ = captured(CASES[name](), CONSTRAIN.format(pattern))
    assert constrained(graph) == fixed


def test_a_constraint_holds_for_each_call_of_a_module():
    graph, _ = captured(CASES["known, shared parts"](), "constrain twice output [vocab, hidden]\n")
    assert constrained(graph) == ["twice", "twice"]


@pytest.mark.parametrize("name", ["known, shared parts", "two models"])
def test_a_map_runs_each_call_as_one(name: str):
    case = CASES[name]()
    pattern = "policy.layers.*" if name == "two models" else "layers.*"
    graph, inputs = captured(case, f"map {pattern} over seq\n", dynamic=True)
    nodes = [n for n in graph.graph.graph.nodes if getattr(n.target, "__name__", "").startswith("mapped")]
    assert [graph.module(n) for n in nodes] == [f"{pattern[:-1]}{i}" for i in range(len(nodes))]
    assert len(nodes) == (2 if name == "two models" else 3)
    plan = solve(graph, Ends(("whole",)), axis=MeshAxis("sp", 2), device=load_device("cpu"))
    loss = case.call(**batch())
    for outputs, _ in simulate(plan, inputs):
        torch.testing.assert_close(outputs[0], loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "line", "pattern", "what", "fix"),
    [
        ("known", CONSTRAIN, "layer.*", "no module of Net is 'layer.*': no 'layer' at the top", "'layers.*'"),
        ("decorated", MAP, "module.layers.*", "no 'module' at the top", "'layers.*'"),
        ("known, a model inside", MAP, "layers.0", "no 'layers' at the top", "'m.layers.0' or 'other.layers.0'"),
        ("two models", CONSTRAIN, "layers.*", "no module of Net and Decorated is", "'policy.layers.*' or 'reference."),
        ("known", CONSTRAIN, "layers.7", "no '7' below 'layers'", "below 'layers' there is 0, 1"),
    ],
)
def test_a_path_of_nothing_is_refused_with_the_nearest(name: str, line: str, pattern: str, what: str, fix: str):
    with pytest.raises(CaptureError) as raised:
        captured(CASES[name](), line.format(pattern), dynamic=line.startswith("map"))
    (problem,) = raised.value.problems
    assert what in problem.what
    assert fix in problem.fix
    assert problem.where == f"<spec>:5:{line.index('{') + 1}"
    assert "^" in problem.excerpt
    followed = problem.fix.split("'")[1] if "did you mean" in problem.fix else "layers.0"
    graph, _ = captured(CASES[name](), line.format(followed), dynamic=line.startswith("map"))
    assert graph.graph is not None  # the fix works


def test_a_module_that_is_not_called_is_told_from_one_that_is_not_there():
    with pytest.raises(CaptureError) as raised:
        captured(CASES["known, decorated"](), CONSTRAIN.format("layers"))
    (problem,) = raised.value.problems
    assert "names a module that runs no operator of the traced forward" in problem.what
    assert problem.fix.startswith("name a module that is called: layers.0, layers.0.up, layers.0.down, layers.1, ")
    with pytest.raises(CaptureError) as raised:
        captured(CASES["parts of a model"](), "map layers.0 over seq\n", dynamic=True)
    assert raised.value.problems[0].fix == "leave the line out"


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("model.layers.*.mpl", ["model.layers.*.mlp"]),
        ("layers.*.mlp", ["model.layers.*.mlp"]),
        ("module.model.layers.1.mlp", ["model.layers.1.mlp"]),
        ("model.decoder.layers.*.mlp", ["model.layers.*.mlp"]),
        ("model.layers.9.mlp", []),
        ("zzz.yyy", []),
    ],
)
def test_the_nearest_of_a_pattern(pattern: str, near: list[str]):
    tree = ["model", "model.layers", *(f"model.layers.{i}{x}" for i in range(2) for x in ("", ".mlp", ".attn"))]
    assert nearest(pattern, tree) == near


# Models of transformers, and of PEFT.


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=32, use_cache=False, attn_implementation="sdpa",
        )
    ).train()  # fmt: skip


def lora() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    return get_peft_model(llama(), adapters).train()


LLAMA = "attention ulysses\n" + CONSTRAIN.replace("{}", "{}model.layers.*.mlp")


@pytest.mark.parametrize(("make", "prefix"), [(llama, ""), (lora, "base_model.model.")], ids=["llama", "lora"])
def test_a_constraint_on_a_llama_is_exact_and_told_by_its_path(make: Callable, prefix: str):
    model = make()
    plan, graph, inputs = planned(model, batch(), HEAD + LLAMA.format(prefix), sp=2)
    assert constrained(graph) == [f"{prefix}model.layers.{i}.mlp" for i in range(2)]
    tree = {path for path, _ in model.named_modules()}
    assert {r.module for r in plan.reshards} <= tree
    assert {op.module for op in plan.problem.ops} <= tree
    assert not any(word in plan.explain() for word in ("L[", "args", "_modules", "__dict__"))
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    assert all(own[p.name] is x for p, x in zip(graph.placeholders, inputs, strict=True) if p.role != "input")
    loss = model(**batch()).loss
    trained = {n: x for n, x in model.named_parameters() if x.requires_grad}
    wanted = dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))
    largest = max(float(g.abs().max()) for g in wanted.values())
    for outputs, gradients in simulate(plan, inputs):
        torch.testing.assert_close(outputs[0], loss, rtol=1e-5, atol=0)
        for p, gradient in zip(graph.placeholders, gradients, strict=True):
            if p.name in wanted:
                assert (gradient - wanted[p.name]).abs().max() <= 1e-5 * wanted[p.name].abs().max() + 1e-7 * largest


def test_the_path_of_the_model_inside_is_refused_with_the_one_of_lora():
    with pytest.raises(AutospError) as raised:
        planned(lora(), batch(), HEAD + LLAMA.format(""), sp=2)
    assert raised.value.problems[0].fix == "did you mean 'base_model.model.model.layers.*.mlp'?"


# Real process groups: of one rank.


@pytest.fixture
def alone_in_a_group() -> Iterator:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "sp"))
    finally:
        dist.destroy_process_group()


def test_a_backend_on_a_function_of_two_models(alone_in_a_group):
    step = of_two(Net(), Decorated(1))
    with pytest.raises(AutospError) as raised:
        run(step, parse(HEAD + CONSTRAIN.format("layers.*")), alone_in_a_group)
    assert raised.value.problems[0].fix == "did you mean 'policy.layers.*' or 'reference.layers.*'?"
    loss, program = run(step, parse(HEAD + CONSTRAIN.format("policy.layers.*")), alone_in_a_group)
    torch.testing.assert_close(loss, step(**batch()), rtol=1e-5, atol=1e-6)
    assert constrained(program.plans[0].problem.captured) == ["policy.layers.0", "policy.layers.1"]


def run(step: Callable, spec: Spec, mesh) -> tuple[torch.Tensor, Any]:
    torch.compiler.reset()
    program = autosp.backend(spec, mesh, backend="aot_eager")
    try:
        with tracing(step):
            return torch.compile(step, backend=program, fullgraph=True)(**batch()), program
    except Exception as error:
        raise (getattr(error, "inner_exception", error)) from None


def test_ddp_around_a_compiled_model(alone_in_a_group):
    model, plain = Decorated(), Decorated()
    torch.compiler.reset()
    compiled = autosp.compile(model, HEAD + CONSTRAIN.format("layers.*"), mesh=alone_in_a_group, backend="aot_eager")
    nn.parallel.DistributedDataParallel(compiled)(**batch()).backward()
    plain(**batch()).backward()
    for (name, x), y in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-5, atol=1e-7, msg=name)
    graph = model.autosp_plan.problem.captured
    assert constrained(graph) == ["layers.0", "layers.1"]
    assert {p.name for p in graph.placeholders if p.role == "param"} == set(dict(model.named_parameters()))


def test_a_model_that_torch_has_compiled_is_refused(alone_in_a_group):
    with pytest.raises(AutospError) as raised:
        autosp.compile(torch.compile(Net(), backend="eager"), HEAD, mesh=alone_in_a_group)
    assert raised.value.problems[0].what == "Net is compiled by torch.compile already"


class Breaking(nn.Module):
    @decorated
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Blocks(nn.Module):
    def __init__(self, modules):
        super().__init__()
        self.blocks, self.head = nn.ModuleList(modules), nn.Linear(4, 4)

    @decorated
    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.mark.parametrize(
    ("model", "place"),
    [
        (Breaking, "(Breaking)"),
        (lambda: Blocks([nn.Tanh(), Breaking()]), "(blocks.1, a Breaking)"),
        (lambda: Blocks([Breaking(), Breaking()]), "(blocks.*, a Breaking)"),
        (lambda: Blocks([Blocks([Breaking()]), Blocks([Breaking()])]), "(blocks.*.blocks.0, a Breaking)"),
    ],
    ids=["model", "one of its parts", "one of several", "one deep inside"],
)
def test_a_broken_graph_names_the_module_under_its_decorators(model: Callable, place: str, alone_in_a_group):
    spec = "mesh [dp: local, sp]\ninput x [batch@dp, seq@sp]\n"
    torch.compiler.reset()
    with pytest.raises(CaptureError) as raised:
        autosp.compile(model(), spec, mesh=alone_in_a_group, backend="eager")(torch.ones(2, 4))
    assert raised.value.problems[0].where.endswith(f"in forward: return x if x.sum() > 0 else -x {place}")


def test_a_map_of_nothing_stops_the_first_call(alone_in_a_group):
    model, spec = Decorated(), parse(HEAD + "map policy.layers.* over seq\n")
    with pytest.raises(AutospError, match=r"did you mean 'layers\.\*'"):
        run(closure(model), spec, alone_in_a_group)


def test_a_part_of_a_mapped_module_is_not_mapped_again():
    with pytest.raises(CaptureError) as raised:
        captured(CASES["known, decorated"](), "map layers.* over seq\nmap layers.*.up over seq\n", dynamic=True)
    (problem,) = raised.value.problems
    assert problem.what == (
        "'map layers.*.up over seq' maps layers.0.up, a part of layers.0, which 'map layers.* over seq' maps"
    )
    graph, _ = captured(CASES["known, decorated"](), "map layers.* over seq\n", dynamic=True)
    assert sum(getattr(n.target, "__name__", "").startswith("mapped") for n in graph.graph.graph.nodes) == 2
