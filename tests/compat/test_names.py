"""Each private name that autosp uses is there and does what it is used for, or the test says which one moved."""

from __future__ import annotations

import contextlib
import logging
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import pytest
import torch
import torch.distributed as dist
from torch import fx
from torch.distributed.device_mesh import init_device_mesh

from autosp.compat import deepspeed as compat_deepspeed
from autosp.compat import names
from autosp.compat import torch as compat
from autosp.compat import transformers as compat_transformers

aten = torch.ops.aten


@pytest.mark.parametrize("name", compat.NAMES)
def test_a_name_of_torch(name: str):
    compat.__dict__.pop(name, None)
    assert getattr(compat, name) is not None


def test_a_name_that_moved_is_named():
    version = torch.__version__
    expected = f"torch {version.split('+')[0]}"
    with pytest.raises(names.Moved) as raised:
        names.look_up("torch", "thing", ("torch._ops:Gone", "torch._nowhere:Gone"))
    assert str(raised.value).startswith(expected)
    assert "no torch._ops.Gone or torch._nowhere.Gone, used by autosp.compat.torch.thing" in str(raised.value)


def test_the_first_place_that_exists_is_taken():
    places = ("torch._ops:Gone", "torch._ops:OpOverload", "torch:Tensor")
    assert names.look_up("torch", "OpOverload", places) is type(aten.add.Tensor)


# What the functions of compat read and set on torch's own objects: by function, the private name and a use of it.


def _schema():
    assert [a.name for a in compat.schema_of(aten.add_.Tensor).arguments] == ["self", "other", "alpha"]
    assert compat.schema_of(aten.add_.Tensor).is_mutable and compat.schema_of(len) is None


def _base_name():
    assert compat.base_name(aten.add_.Tensor) == "add_" and compat.base_name(len) is None


def _overload_name():
    assert (compat.overload_name(aten.add_.Tensor), compat.overload_name(aten.relu.default)) == ("Tensor", "default")


def _qualified_name():
    @torch.library.custom_op("autosp_compat::same", mutates_args=())
    def same(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    assert compat.qualified_name(same) == "autosp_compat::same" and compat.qualified_name(len) == ""


def _has_kernel():
    assert compat.has_kernel(aten.linear.default, "AutocastCPU")
    assert not compat.has_kernel(aten.add.Tensor, "AutocastCPU")


def _storage_id():
    x, y = torch.ones(4), torch.ones(4)
    assert compat.storage_id(x) == compat.storage_id(x[1:]) != compat.storage_id(y)


def _own_tensors():
    module = torch.nn.BatchNorm1d(2)
    parameters, buffers = compat.own_tensors(module)
    assert (set(parameters), set(buffers)) == (
        {"weight", "bias"},
        {"running_mean", "running_var", "num_batches_tracked"},
    )
    parameters["weight"] = changed = torch.nn.Parameter(torch.zeros(2))
    assert module.weight is changed


def _compiled_call():
    module = torch.nn.Linear(2, 2)
    assert compat.compiled_call(module) is None
    module.compile(backend="eager")
    assert callable(compat.compiled_call(module))
    compat.set_compiled_call(module, lambda *args: "ours")
    assert module(torch.ones(1, 2)) == "ours"
    module.register_forward_hook(lambda module, args, out: out + 1)
    assert torch.equal(compat.call_uncompiled(module, torch.ones(1, 2)), module.forward(torch.ones(1, 2)) + 1)


def _placeholders():
    seen = _graph_of(torch.nn.Linear(2, 2), torch.ones(3, 2))
    ((weight, new),) = [(n, new) for n, name, new in seen.placeholders if name.endswith("._parameters['weight']")]
    assert new._dynamo_source is weight._dynamo_source and "tensor_dict" in new.meta
    assert compat.source_of(fx.Graph().placeholder("x")) is None


def _frames():
    outer = torch.nn.ModuleDict({"inner": torch.nn.Linear(2, 2)})
    found, stacks = {}, []

    def helper(x: torch.Tensor) -> torch.Tensor:
        return outer["inner"](x)

    def backend(gm: fx.GraphModule, inputs: list) -> fx.GraphModule:
        frame = compat.compiled_frame()
        assert frame.code.co_name == "forward" and frame.globals is globals()
        assert compat.saw_call_of(helper) and not compat.saw_call_of(_frames)
        for source in filter(None, map(compat.source_of, gm.graph.find_nodes(op="placeholder"))):
            names = compat.names_in(compat.expression_of(source))
            links = [compat.value_of(link, frame) for link in compat.links_of(source)]
            found[names[-1]] = (names, links, [compat.stack_expression(link) for link in compat.links_of(source)])
        stacks.extend(n.meta["nn_module_stack"] for n in gm.graph.nodes if n.meta.get("nn_module_stack"))
        return gm

    def forward(x: torch.Tensor) -> torch.Tensor:
        return helper(x)

    torch.compiler.reset()
    torch.compile(forward, backend=backend, fullgraph=True)(torch.ones(3, 2))
    assert compat.compiled_frame() is None and not compat.saw_call_of(helper)
    names, links, expressions = found["weight"]
    assert names[-3:] == ["outer", "inner", "weight"] or names[-2:] == ["inner", "weight"]
    assert links[-1] is outer["inner"].weight and any(link is outer for link in links)
    assert any(each.endswith(".inner") for each in expressions)
    assert id(outer["inner"]) in {compat.called_module(key) for stack in stacks for key in stack}


def _under_vmap():
    def inner(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    def outer(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    found = []

    def backend(gm: fx.GraphModule, inputs: list) -> fx.GraphModule:
        found.append((list(compat.codes_of_trace()), compat.codes_under_vmap()))
        return gm

    torch.compiler.reset()
    forward = lambda x: outer(torch.vmap(lambda row: torch.vmap(torch.sin)(row) + inner(row))(outer(x)))  # noqa: E731
    torch.compile(forward, backend=backend, fullgraph=True)(torch.ones(3, 2))
    ((every, under),) = found
    assert inner.__code__ in under and outer.__code__ not in under and every.count(outer.__code__) == 2


def _uncompiled():
    module = torch.nn.Linear(2, 2)
    assert compat.uncompiled(torch.compile(module)) is module is compat.uncompiled(module)


def _sources():
    old = _graph_of(torch.nn.Linear(2, 2), torch.ones(3, 2)).gm
    new = fx.GraphModule({}, fx.Graph())
    compat.carry_sources(old, new, constants=["table"])
    assert set(new._param_name_to_source) == {*old._param_name_to_source, "table"} and old._param_name_to_source


def _trace_to_aten():
    x = compat.FakeTensorMode().from_tensor(torch.ones(2, 3))
    graph = compat.trace_to_aten(lambda x: torch.nn.functional.linear(x, x), [x])
    assert [n.target for n in graph.graph.nodes if n.op == "call_function"] == [aten.linear.default]


def _trace_below():
    inner = []

    def outer(x: torch.Tensor) -> torch.Tensor:
        inner.append(compat.trace_below(lambda y: torch.nn.functional.linear(y, y), [x.detach()]))
        return x + 1

    x = compat.FakeTensorMode().from_tensor(torch.ones(3, 3))
    graph = compat.trace_to_aten(outer, [x])
    assert aten.add.Tensor in {n.target for n in graph.graph.nodes}
    below = {n.target for n in inner[0].graph.nodes if n.op == "call_function"}
    assert aten.mm.default in below and not below & {n.target for n in graph.graph.nodes}


def _dynamo_settings():
    def told(x: torch.Tensor) -> None:
        raise AssertionError("the graph holds it")

    def forward(x: torch.Tensor, y: torch.Tensor, scale: float) -> torch.Tensor:
        told(x)
        return (x * scale) @ y

    torch.compiler.reset()
    seen: list[fx.GraphModule] = []
    with compat.dynamo_settings({told}):
        compiled = torch.compile(forward, backend=lambda gm, _: seen.append(gm) or gm, fullgraph=True, dynamic=True)
        compiled(torch.ones(6, 6), torch.ones(6, 6), 2.0)
    values = [n.meta["example_value"] for n in seen[0].graph.find_nodes(op="placeholder")]
    symbols = [v for v in values if isinstance(v, torch.SymInt)]
    assert len({str(s) for s in symbols}) == len(symbols) >= 3, "equal sizes are symbols of their own"
    assert not [v for v in values if isinstance(v, torch.SymFloat)], "numbers stay numbers"


def _unlogged_fakes():
    log = logging.getLogger("torch._subclasses.fake_tensor")
    seen: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = seen.append
    log.addHandler(handler)
    try:
        for quiet in (contextlib.nullcontext, compat.unlogged_fakes):
            with quiet(), compat.FakeTensorMode(), pytest.raises(RuntimeError):
                torch.ones(2) + torch.ones(3)
            assert bool(seen) is (quiet is contextlib.nullcontext)
            seen.clear()
    finally:
        log.removeHandler(handler)


def _whole_graph_under_ddp():
    assert compat.dynamo_config.optimize_ddp
    with compat.whole_graph_under_ddp():
        assert not compat.dynamo_config.optimize_ddp


def _recompile_limit():
    config = compat.dynamo_config
    with config.patch(recompile_limit=3, accumulated_recompile_limit=4):
        assert compat.recompile_limit() == 3
        with compat.compiling_up_to(5):
            assert compat.recompile_limit() == 5 == config.accumulated_recompile_limit
        with compat.compiling_up_to(2):
            assert config.accumulated_recompile_limit == 4, "no cap of the user's is lowered"


def _in_a_trace():
    assert compat.fake_mode_of_trace() is None
    seen = _graph_of(torch.nn.Linear(2, 2), torch.ones(3, 2), dynamic=True)
    (size,) = [s for s in seen.fakes[-1].shape if isinstance(s, torch.SymInt)]
    assert seen.fakes[-1].fake_mode is seen.mode
    assert compat.example_size(size) == 3 and compat.example_size(7) == 7
    assert compat.hints_of(seen.mode) == {compat.size_expression(size): 3}


class _Keeps(torch.nn.Module):
    def forward(self, x):
        self.last = x + 1
        return x * 2


def _kept():
    assert compat.kept_by_side_effects() == set()
    seen = []

    def backend(gm, inputs):
        outputs = gm.graph.output_node().args[0]
        seen.append([n.name in compat.kept_by_side_effects() for n in outputs])
        return gm.forward

    torch.compiler.reset()
    torch.compile(_Keeps(), backend=backend, fullgraph=True)(torch.ones(3))
    assert seen == [[False, True]]


def _of_data():
    with compat.FakeTensorMode(shape_env=compat.data_dependent()) as mode:
        number = torch.ones((), dtype=torch.long).item()
        found = torch.ones(5).nonzero().shape[0]
    assert compat.symbol_of_data(compat.size_expression(number))
    assert compat.example_size(found) == 5 and compat.example_size(number) == compat.UNKNOWN
    assert compat.hints_of(mode) == {}


def _unguarded():
    guards: list[int] = []

    def backend(gm: fx.GraphModule, inputs: list):
        mode, (size,) = compat.fake_mode_of_trace(), [x for x in inputs if isinstance(x, torch.SymInt)]
        before = len(mode.shape_env.guards)
        with compat.unguarded(mode):
            assert bool(size > 2)
        guards.append(len(mode.shape_env.guards) - before)
        assert bool(size > 2)
        guards.append(len(mode.shape_env.guards) - before)
        return gm

    torch.compiler.reset()
    torch.compile(torch.sin, backend=backend, dynamic=True)(torch.ones(9))
    assert guards == [0, 1]
    with compat.unguarded(None):
        pass


def _groups():
    with _one_process():
        mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("sp", "tp"))
        assert compat.joined_group(mesh, ("sp", "tp"), "both").size() == 1
        compat.default_store().set("autosp", "here")
        assert compat.default_store().get("autosp") == b"here"


def _aot_eager():
    for partition in (None, compat.min_cut_rematerialization_partition):
        torch.compiler.reset()
        x = torch.ones(3, requires_grad=True)
        torch.compile(lambda x: x.sin().sum(), backend=compat.aot_eager(partition))(x).backward()
        assert torch.equal(x.grad, torch.ones(3).cos())


def _inductor():
    given = []

    def ours(graph: fx.Graph) -> None:
        given.append(graph)

    def backend(gm: fx.GraphModule, inputs: list) -> Callable:
        return compat.inductor(gm, inputs, {"post_grad_custom_post_pass": ours, "force_disable_caches": True})

    torch.compiler.reset()
    assert torch.equal(torch.compile(lambda x: x + 1, backend=backend)(torch.zeros(5)), torch.ones(5))
    assert given, "the pass did not run"


def _hooked():
    x = torch.ones(1, requires_grad=True)
    x.register_post_accumulate_grad_hook(lambda p: None)
    assert not compat.has_gradient_hooks(x)
    handle = x.register_hook(lambda grad: grad)
    assert compat.has_gradient_hooks(x)
    handle.remove()
    assert not compat.has_gradient_hooks(x)


def _aot_settings():
    with compat.aot_settings(enable_autograd_cache=False):
        assert not compat.aot_config.enable_autograd_cache


USES: dict[str, tuple[str, Callable[[], None]]] = {
    "schema_of": ("OpOverload._schema", _schema),
    "base_name": ("OpOverload._opname", _base_name),
    "overload_name": ("OpOverload._overloadname", _overload_name),
    "qualified_name": ("CustomOpDef._qualname", _qualified_name),
    "has_kernel": ("_C._dispatch_has_kernel_for_dispatch_key", _has_kernel),
    "storage_id": ("UntypedStorage._cdata", _storage_id),
    "own_tensors": ("nn.Module._parameters, _buffers", _own_tensors),
    "compiled_call": ("nn.Module._compiled_call_impl", _compiled_call),
    "set_compiled_call": ("nn.Module._compiled_call_impl", _compiled_call),
    "call_uncompiled": ("nn.Module._call_impl", _compiled_call),
    "carry_placeholder": ("fx.Node._dynamo_source, meta['tensor_dict']", _placeholders),
    "source_of": ("fx.Node.meta['grapharg'].source", _placeholders),
    "expression_of": ("Source.name", _placeholders),
    "links_of": ("Source.base", _frames),
    "value_of": ("Source.get_value", _frames),
    "names_in": ("Source.name", _frames),
    "stack_expression": ("Source.name", _frames),
    "called_module": ("fx.Node.meta['nn_module_stack']", _frames),
    "compiled_frame": ("InstructionTranslator.current_tx, OutputGraph.root_tx", _frames),
    "saw_call_of": ("TracingContext.get_traced_code", _frames),
    "codes_of_trace": ("TracingContext.get_traced_code", _under_vmap),
    "codes_under_vmap": ("_functorch.vmap._create_batched_inputs, _unwrap_batched", _under_vmap),
    "uncompiled": ("OptimizedModule._orig_mod", _uncompiled),
    "carry_sources": ("GraphModule._param_name_to_source", _sources),
    "trace_to_aten": ("make_fx(pre_dispatch, _allow_non_fake_inputs)", _trace_to_aten),
    "trace_below": ("make_fx, disable_proxy_modes_tracing", _trace_below),
    "unlogged_fakes": ("_subclasses.fake_tensor's logger", _unlogged_fakes),
    "dynamo_settings": ("_dynamo.config, fx.experimental._config", _dynamo_settings),
    "whole_graph_under_ddp": ("_dynamo.config.optimize_ddp", _whole_graph_under_ddp),
    "recompile_limit": ("_dynamo.config.recompile_limit", _recompile_limit),
    "compiling_up_to": ("_dynamo.config.recompile_limit", _recompile_limit),
    "fake_mode_of_trace": ("_guards.TracingContext.fake_mode", _in_a_trace),
    "fake_of_trace": ("TracingContext.tensor_to_context, FakeTensorMode.from_tensor", _in_a_trace),
    "hints_of": ("ShapeEnv.backed_var_to_val", _in_a_trace),
    "example_size": ("SymNode.hint", _in_a_trace),
    "kept_by_side_effects": ("InstructionTranslator.output.side_effects", _kept),
    "data_dependent": ("symbolic_shapes.ShapeEnv", _of_data),
    "symbol_of_data": ("_sympy.symbol.symbol_is_type", _of_data),
    "size_expression": ("SymNode.expr", _in_a_trace),
    "unguarded": ("ShapeEnv.suppress_guards", _unguarded),
    "has_gradient_hooks": ("Tensor._backward_hooks", _hooked),
    "joined_group": ("DeviceMesh._flatten", _groups),
    "default_store": ("distributed_c10d._get_default_store", _groups),
    "aot_eager": ("_dynamo.backends, _functorch.partitioners", _aot_eager),
    "inductor": ("_inductor.compile_fx, _inductor.config", _inductor),
    "aot_settings": ("_functorch.config", _aot_settings),
}


@pytest.mark.parametrize("name", USES)
def test_a_use_of_torch(name: str):
    private, use = USES[name]
    with _moved_if_it_fails("torch", private, name):
        use()


def test_every_function_has_its_use():
    public = {
        n for n, f in vars(compat).items() if isinstance(f, types.FunctionType) and f.__module__ == compat.__name__
    }
    assert {n for n in public if not n.startswith("_")} == set(USES)


def test_hooks_of_transformers():
    with _moved_if_it_fails(
        "transformers", "utils.output_capturing, PreTrainedModel._can_record_outputs", "install_hooks"
    ):
        from transformers import LlamaConfig, LlamaForCausalLM
        from transformers.utils import output_capturing

        config = LlamaConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8
        )
        model = LlamaForCausalLM(config)
        assert hasattr(model, "_can_record_outputs") and callable(output_capturing.maybe_install_capturing_hooks)
        compat_transformers.install_hooks(model)
        compat_transformers.install_hooks(torch.nn.Linear(2, 2))
        torch.compile(model, backend="eager", fullgraph=True)(torch.zeros(1, 4, dtype=torch.int64), use_cache=False)


def test_hooks_that_ask_for_gradients():
    with _moved_if_it_fails("transformers", "make_inputs_require_grads", "without_gradient_hooks"):
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8
        )
        model = LlamaForCausalLM(config)
        embeddings, own = model.get_input_embeddings(), lambda *_: None
        model.enable_input_require_grads()
        embeddings.register_forward_hook(own)
        before = dict(embeddings._forward_hooks)
        with compat_transformers.without_gradient_hooks(model):
            assert list(embeddings._forward_hooks.values()) == [own]
        assert list(embeddings._forward_hooks.items()) == list(before.items()) and len(before) == 2
        with compat_transformers.without_gradient_hooks(len):  # what is no module has none
            pass


def test_a_config_of_deepspeed():
    with _moved_if_it_fails("deepspeed", "DeepSpeedEngine._config", "config_entry"), _one_process():
        import deepspeed

        assert isinstance(vars(deepspeed.DeepSpeedEngine).get("__init__"), types.FunctionType)
        config = {
            "train_micro_batch_size_per_gpu": 1,
            "compile": {"deepcompile": True, "passes": ["autosp"]},
            "sequence_parallel_size": 1,
        }
        read = deepspeed.DeepSpeedConfig(config)
        engine = types.SimpleNamespace(_config=read)
        assert compat_deepspeed.config_entry(engine, "sequence_parallel_size") == 1
        assert compat_deepspeed.config_entry(engine, "nothing") is None
        assert compat_deepspeed.deepcompile_passes(engine) == (True, ["autosp"])


def test_no_native_backward_of_deepspeed():
    with _moved_if_it_fails("deepspeed", "DeepSpeedEngine.is_deepcompile_active", "skip_native_backward"):
        import deepspeed

        of_today = hasattr(deepspeed.DeepSpeedEngine, "uses_parallelization_pass_only")
        engine = types.SimpleNamespace(is_deepcompile_active=lambda: True)
        compat_deepspeed.skip_native_backward(engine)
        assert not engine.is_deepcompile_active() and callable(deepspeed.DeepSpeedEngine.is_deepcompile_active)
        if of_today:
            engine = types.SimpleNamespace(uses_parallelization_pass_only=lambda: True)
            compat_deepspeed.skip_native_backward(engine)
            assert not hasattr(engine, "is_deepcompile_active")


@contextmanager
def _moved_if_it_fails(library: str, private: str, name: str) -> Iterator[None]:
    try:
        yield
    except (AttributeError, ImportError, TypeError, AssertionError, KeyError, ValueError) as e:
        said = names.moved(library, name, (f"{library}.{private}",))
        pytest.fail(f"{said}, or it does something else: {type(e).__name__}: {e}")


@contextmanager
def _one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@attrs.define
class Seen:
    """What a backend was given, and what compat found there."""

    gm: fx.GraphModule | None = None
    placeholders: list = attrs.Factory(list)
    fakes: list = attrs.Factory(list)
    mode: object = None


def _graph_of(model: torch.nn.Module, x: torch.Tensor, dynamic: bool = False) -> Seen:
    seen = Seen()

    def backend(gm: fx.GraphModule, inputs: list) -> fx.GraphModule:
        seen.gm, seen.mode = gm, compat.fake_mode_of_trace()
        nodes = gm.graph.find_nodes(op="placeholder")
        for node in nodes:
            new = fx.Graph().placeholder("x")
            compat.carry_placeholder(node, new)
            assert compat.source_of(new) is compat.source_of(node)
            source = compat.source_of(node)
            seen.placeholders.append((node, compat.expression_of(source) if source is not None else "", new))
        tensors = [(e, n) for e, n in zip(inputs, nodes, strict=True) if isinstance(e, torch.Tensor)]
        seen.fakes = [compat.fake_of_trace(e, n) for e, n in tensors]
        return gm

    torch.compiler.reset()
    if dynamic:
        torch._dynamo.mark_dynamic(x, 0)
    torch.compile(model, backend=backend, fullgraph=True)(x)
    return seen
