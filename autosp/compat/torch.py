"""What autosp uses of torch beyond its public names.

`NAMES` are classes, functions and values of torch, imported when first asked for (`from ..compat.torch import
FakeTensor`); the functions below are what autosp reads or sets on torch's own objects.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import CodeType
from typing import Any

import attrs
import torch
from torch import fx

from .names import look_up
from .torch_names import NAMES


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = look_up("torch", name, NAMES[name])
    globals()[name] = value
    return value


def _named(name: str) -> Any:
    return globals().get(name) or __getattr__(name)


_NAME = re.compile(r"\[['\"]([^'\"]*)['\"]\]|\[(\d+)\]|\.?(\w+)")  # in a Source's expression
_BETWEEN = {"_modules", "_parameters", "_buffers", "__dict__", "__self__", "__func__", "__wrapped__"}


@attrs.frozen(eq=False)
class Frame:
    """A function that Dynamo compiles, and the values of its variables; `seen` keeps what was looked up."""

    code: CodeType
    variables: Mapping[str, Any]
    globals: Mapping[str, Any]
    seen: dict = attrs.Factory(dict)


# Operators.


def schema_of(operator: Any) -> Any:
    """An ATen or custom operator's schema: `arguments`, `returns`, `is_mutable`; None for anything else."""
    return getattr(operator, "_schema", None)


def base_name(operator: Any) -> str | None:
    """`add_` of `aten.add_.Tensor`; None for what is not an operator's overload."""
    return getattr(operator, "_opname", None)


def overload_name(operator: Any) -> str:
    """`Tensor` of `aten.add_.Tensor`, `default` where it has none of its own."""
    return operator._overloadname


def qualified_name(custom_op: Any) -> str:
    """`mylib::scale` of what `torch.library.custom_op` gives back; empty for anything else."""
    return str(getattr(custom_op, "_qualname", ""))


def has_kernel(operator: Any, dispatch_key: str) -> bool:
    """Whether an operator has a kernel of its own under a dispatch key such as AutocastCUDA."""
    return _named("dispatch_has_kernel")(operator.name(), dispatch_key)


# Tensors and modules.


def storage_id(x: torch.Tensor) -> int:
    """What tells a tensor's memory from another's; views share it. Raises NotImplementedError under vmap."""
    return x.untyped_storage()._cdata


def own_tensors(module: torch.nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables of a module's own parameters and buffers, to be changed in place."""
    return module._parameters, module._buffers


def compiled_call(module: Any) -> Any:
    """What a module's call runs since `module.compile()`; None before."""
    return getattr(module, "_compiled_call_impl", None)


def call_uncompiled(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    """What a module's call gave before `module.compile()`, hooks included."""
    return module._call_impl(*args, **kwargs)


def set_compiled_call(module: torch.nn.Module, call: Callable) -> None:
    """Has a compiled module's call run `call`."""
    module._compiled_call_impl = call


# What Dynamo leaves on its graphs, for AOTAutograd.


def carry_placeholder(old: fx.Node, new: fx.Node) -> None:
    """What AOTAutograd reads of a placeholder: without it parameters stop being static inputs."""
    for key in ("tensor_dict", "grapharg"):
        if key in old.meta:
            new.meta[key] = old.meta[key]
    if hasattr(old, "_dynamo_source"):
        new._dynamo_source = old._dynamo_source


def source_of(placeholder: fx.Node) -> Any | None:
    """Dynamo's Source of what a placeholder stands for; None for one that it made itself."""
    return getattr(placeholder.meta.get("grapharg"), "source", None)


def expression_of(source: Any) -> str:
    """A Source as an expression: `L['self']._modules['lm_head']._parameters['weight']`."""
    return source.name


def links_of(source: Any) -> list[Any]:
    """The Sources that a Source goes through, from a variable of the frame to itself."""
    links = [source]
    while (base := getattr(links[-1], "base", None)) is not None:
        links.append(base)
    return links[::-1]


def value_of(source: Any, frame: Frame) -> Any:
    """The object that a Source leads to. Raises any exception where it leads to none."""
    return source.get_value({"L": frame.variables, "G": frame.globals}, {}, frame.seen)


def names_in(expression: str) -> list[str]:
    """The names in a Source's expression, the frame's `L` or `G` first, without the dictionaries that
    modules are made of: L, self, lm_head, weight."""
    names = (next(filter(None, m.groups()), "") for m in _NAME.finditer(expression))
    return [name for name in names if name and name not in _BETWEEN]


def stack_expression(source: Any) -> str:
    """A module's Source as an `nn_module_stack` writes it: `L['self'].model.layers.0`."""
    return re.sub(r"\._modules\[(['\"])([^'\"\]]+)\1\]", r".\2", expression_of(source))


def called_module(key: str) -> int:
    """The `id` of the module that a key of an `nn_module_stack` stands for; `@N` tells its N-th call."""
    number = key.split("@")[0]
    return int(number) if number.isdigit() else 0


def compiled_frame() -> Frame | None:
    """The function that Dynamo compiles, while a backend is called; None outside a compilation."""
    try:
        tx = _named("InstructionTranslator").current_tx().output.root_tx
    except AttributeError:
        return None
    return Frame(tx.f_code, tx.f_locals, tx.f_globals)


def kept_by_side_effects() -> set[str]:
    """The nodes of Dynamo's graph whose values the compiled function assigns to attributes, or puts into containers,
    that were there before it; empty outside a compilation."""
    try:
        effects = _named("InstructionTranslator").current_tx().output.side_effects
    except AttributeError:
        return set()
    names: set[str] = set()

    def note(variable: Any) -> None:
        proxy = getattr(variable, "proxy", None)
        if proxy is not None:
            names.add(proxy.node.name)

    for variable in list(effects.id_to_variable.values()):  # to look at one may add others
        if effects.is_modified(variable) and type(variable.mutation_type).__name__.endswith("Existing"):
            values = effects.store_attr_mutations.get(variable)
            variable.visit(note, list(values.values()) if values else variable)
    return names


def uncompiled(module: torch.nn.Module) -> torch.nn.Module:
    """The module that `torch.compile` made this one of, or itself."""
    while isinstance(module, _named("OptimizedModule")):
        module = module._orig_mod
    return module


def carry_sources(old: fx.GraphModule, new: fx.GraphModule, constants: Iterable[str] = ()) -> None:
    """The sources of a graph's parameters, which AOTAutograd looks up. constants: names of the
    buffers that the new graph alone holds."""
    sources: Any = getattr(old, "_param_name_to_source", None)
    if sources is not None:
        own = {name: _named("ConstantSource")(name) for name in constants}
        setattr(new, "_param_name_to_source", own | sources)  # noqa: B010  # a Module's attributes are typed


# Traces and symbolic sizes.


def trace_to_aten(function: Callable, args: Sequence) -> fx.GraphModule:
    """The ATen operators, composite ones whole, that a function calls on fake arguments; nodes keep
    the metadata of the node that is interpreted."""
    with _named("preserve_node_meta")():
        made = _named("make_fx")(function, pre_dispatch=True, tracing_mode="real", _allow_non_fake_inputs=True)
        return made(*args)


def trace_below(function: Callable, args: Sequence) -> fx.GraphModule:
    """The ATen operators that a function comes down to, in the midst of another trace, which sees none of them. Where the
    function runs the nodes of a graph, they carry the metadata of those that they come from."""
    with _named("disable_proxy_modes_tracing")(), _named("preserve_node_meta")():
        return _named("make_fx")(function, tracing_mode="real", _allow_non_fake_inputs=True)(*args)


@contextlib.contextmanager
def dynamo_settings(ignored_loggers: Iterable[Callable]) -> Iterator[None]:
    """How Dynamo is to trace for us: equal sizes keep their own symbols, numbers stay numbers, and
    calls of these loggers do not break the graph. An operator that fails is reported once, by what is raised."""
    config = _named("dynamo_config")
    ignored = {*config.ignore_logging_functions, *ignored_loggers}
    with (
        unlogged_fakes(),
        _named("shapes_config").patch(use_duck_shape=False),
        config.patch(specialize_float=True, ignore_logging_functions=ignored),
    ):
        yield


@contextlib.contextmanager
def unlogged_fakes() -> Iterator[None]:
    """A call that fails on fake tensors is reported by what it raises alone, not by a traceback in the log as well."""
    log = logging.getLogger(_named("FakeTensor").__module__)
    before, log.disabled = log.disabled, True  # a level would clear what every logger has cached, at each call
    try:
        yield
    finally:
        log.disabled = before


def whole_graph_under_ddp() -> contextlib.AbstractContextManager:
    """A DDP wrapper's splitting of graphs would leave no full one."""
    return _named("dynamo_config").patch(optimize_ddp=False)


def recompile_limit() -> int:
    """How many times Dynamo compiles one function."""
    return _named("dynamo_config").recompile_limit


def compiling_up_to(limit: int) -> contextlib.AbstractContextManager:
    """Dynamo compiles one function this many times; the cap over all that was ever compiled of it is no lower."""
    config = _named("dynamo_config")
    cap = max(limit, config.accumulated_recompile_limit)
    return config.patch(recompile_limit=limit, accumulated_recompile_limit=cap)


def fake_mode_of_trace() -> Any | None:
    """The fake mode of the trace that a backend is called in; None outside one."""
    return getattr(_named("TracingContext").try_get(), "fake_mode", None)


def saw_call_of(function: Any) -> bool:
    """Whether the trace that a backend is called in has gone through a Python function."""
    return function.__code__ in codes_of_trace()


def codes_of_trace() -> Sequence[CodeType]:
    """The code of each Python function that the trace that a backend is called in has gone through, call by call."""
    context = _named("TracingContext").try_get()
    return () if context is None else context.get_traced_code() or ()


def codes_under_vmap() -> list[CodeType]:
    """Those of them that were called in a vmap."""
    begins, ends = _named("vmap_batches").__code__, _named("vmap_unbatches").__code__
    codes, depth = [], 0
    for code in codes_of_trace():
        depth += (code is begins) - (code is ends)
        if depth:
            codes.append(code)
    return codes


def fake_of_trace(x: torch.Tensor, placeholder: fx.Node) -> torch.Tensor:
    """A fake of one of Dynamo's example inputs, with the symbols that Dynamo gave its sizes."""
    context = _named("TracingContext").get()
    symbolic = context.tensor_to_context.get(x)
    return context.fake_mode.from_tensor(
        x,
        static_shapes=symbolic is None,
        symbolic_context=symbolic,
        source=source_of(placeholder),
    )


def hints_of(mode: Any) -> dict:
    """The sizes of the example, by symbol."""
    return dict(mode.shape_env.backed_var_to_val)


def example_size(size: int | torch.SymInt) -> int:
    """A size in the example that was traced; of one that only the data tell, the most that it can be."""
    if not isinstance(size, torch.SymInt):
        return size
    env = size.node.shape_env
    expr = size.node.expr.xreplace(dict(env.backed_var_to_val))
    return int(expr) if not getattr(expr, "free_symbols", None) else _most(env.bound_sympy(expr))


UNKNOWN, _LARGEST = 4096, 2**40  # a number that nothing bounds; a bound beyond this says nothing of a size


def _most(bounds: Any) -> int:
    """The most that a size can be, where that says something."""
    return int(bounds.upper) if bounds.upper <= _LARGEST else UNKNOWN


def data_dependent() -> Any:
    """For a fake mode in which what only the data tell (`.item()`, `nonzero`) is a symbol without a value."""
    return _named("ShapeEnv")(allow_scalar_outputs=True, allow_dynamic_output_shape_ops=True)


def symbol_of_data(symbol: Any) -> bool:
    """Whether only the data tell what a symbol stands for."""
    kinds = _named("SymT")
    return _named("symbol_is_type")(symbol, (kinds.UNBACKED_INT, kinds.UNBACKED_FLOAT))


def size_expression(size: torch.SymInt) -> Any:
    """A symbolic size as sympy has it."""
    return size.node.expr


@contextlib.contextmanager
def unguarded(mode: Any | None) -> Iterator[None]:
    """Comparisons of a fake mode's symbolic sizes are not guarded, and operators take such sizes (in torch 2.11 a
    product does by Python's dispatcher alone)."""
    env = getattr(mode, "shape_env", None)
    if env is None:
        yield
        return
    with env.suppress_guards(), _named("enable_python_dispatcher")():
        yield


def has_gradient_hooks(x: torch.Tensor) -> bool:
    """Whether `register_hook` was called on a tensor."""
    return bool(x._backward_hooks)


# Process groups.


def joined_group(mesh: Any, dims: Sequence[str], name: str) -> Any:
    """The process group of several dims of a DeviceMesh as one, called `name`."""
    return mesh[tuple(dims)]._flatten(name).get_group()


def default_store() -> Any:
    """The store that the default process group met in."""
    return _named("get_default_store")()


# Compilers.


def aot_eager(partition: Callable | None) -> Callable:
    """The backend "aot_eager", its joint graph cut by `partition`; by torch's own where that is None."""
    if partition is None:
        return _named("lookup_backend")("aot_eager")
    run = _named("boxed_nop")
    return _named("aot_autograd")(
        fw_compiler=run, bw_compiler=run, partition_fn=partition, keep_inference_input_mutations=True
    )


def inductor(gm: fx.GraphModule, example_inputs: Sequence, settings: Mapping[str, Any]) -> Callable:
    """A graph compiled by Inductor under settings of its own: some are read now (a partitioner),
    some later, when the backward is compiled."""
    with _named("inductor_config").patch(dict(settings)):
        return _named("compile_fx")(gm, example_inputs, config_patches=dict(settings) or None)


def aot_settings(**settings: Any) -> contextlib.AbstractContextManager:
    """AOTAutograd's settings, changed within."""
    return _named("aot_config").patch(settings)
