"""Where the classes, functions and values of torch are that `autosp.compat.torch` gives by name."""

from __future__ import annotations

# By what they are called here; a pair of places where releases differ, the newest first.
NAMES: dict[str, str | tuple[str, ...]] = {
    # operators
    "OpOverload": "torch._ops:OpOverload",
    "HigherOrderOperator": "torch._ops:HigherOrderOperator",
    "SET_GRAD_ENABLED": "torch._C:_set_grad_enabled",  # these three are calls in a graph
    "ENTER_AUTOCAST": "torch.amp.autocast_mode:_enter_autocast",
    "EXIT_AUTOCAST": "torch.amp.autocast_mode:_exit_autocast",
    "GET_DATA": "torch._C._autograd:_get_data_attr",  # what `x.data` is in Dynamo's graph
    "flop_registry": "torch.utils.flop_counter:flop_registry",
    # fake tensors and symbolic sizes
    "FakeTensor": "torch._subclasses.fake_tensor:FakeTensor",
    "FakeTensorMode": "torch._subclasses.fake_tensor:FakeTensorMode",
    "without_fakes": "torch._subclasses.fake_tensor:unset_fake_temporarily",
    "make_fx": "torch.fx.experimental.proxy_tensor:make_fx",
    "enable_python_dispatcher": "torch._dispatch.python:enable_python_dispatcher",
    "ShapeEnv": "torch.fx.experimental.symbolic_shapes:ShapeEnv",
    "SymT": "torch.utils._sympy.symbol:SymT",
    "symbol_is_type": "torch.utils._sympy.symbol:symbol_is_type",
    "statically_known_true": "torch.fx.experimental.symbolic_shapes:statically_known_true",
    "disable_proxy_modes_tracing": "torch.fx.experimental.proxy_tensor:disable_proxy_modes_tracing",
    "CleanDiv": "torch.utils._sympy.functions:CleanDiv",
    "FloorDiv": "torch.utils._sympy.functions:FloorDiv",
    "Max": "torch.utils._sympy.functions:Max",
    "Min": "torch.utils._sympy.functions:Min",
    "Mod": "torch.utils._sympy.functions:Mod",
    # containers
    "tree_flatten": "torch.utils._pytree:tree_flatten",
    "tree_map": "torch.utils._pytree:tree_map",
    "tree_unflatten": "torch.utils._pytree:tree_unflatten",
    "OrderedSet": "torch.utils._ordered_set:OrderedSet",
    "WeakIdKeyDictionary": "torch.utils.weak:WeakIdKeyDictionary",
    # Dynamo
    "BackendCompilerFailed": "torch._dynamo.exc:BackendCompilerFailed",
    "FailOnRecompileLimitHit": "torch._dynamo.exc:FailOnRecompileLimitHit",
    "InternalTorchDynamoError": "torch._dynamo.exc:InternalTorchDynamoError",
    "TorchRuntimeError": "torch._dynamo.exc:TorchRuntimeError",
    "UncapturedHigherOrderOpError": "torch._dynamo.exc:UncapturedHigherOrderOpError",
    "Unsupported": "torch._dynamo.exc:Unsupported",
    "UserError": "torch._dynamo.exc:UserError",
    "ConstantSource": "torch._dynamo.source:ConstantSource",
    "TracingContext": "torch._guards:TracingContext",
    "InstructionTranslator": "torch._dynamo.symbolic_convert:InstructionTranslator",
    "OptimizedModule": "torch._dynamo.eval_frame:OptimizedModule",
    "dynamo_config": "torch._dynamo:config",
    "maybe_mark_dynamic": "torch._dynamo:maybe_mark_dynamic",
    "compile_counters": "torch._dynamo.utils:counters",
    "preserve_node_meta": "torch.fx.traceback:preserve_node_meta",
    "GuardOnDataDependentSymNode": "torch.fx.experimental.symbolic_shapes:GuardOnDataDependentSymNode",
    "shapes_config": "torch.fx.experimental:_config",
    "vmap_enter": ("torch._functorch.predispatch:_vmap_increment_nesting", "torch._C._functorch:_vmap_increment_nesting"),
    "vmap_leave": ("torch._functorch.predispatch:_vmap_decrement_nesting", "torch._C._functorch:_vmap_decrement_nesting"),
    "vmap_batched": "torch._functorch.predispatch:_add_batch_dim",
    "vmap_batches": "torch._functorch.vmap:_create_batched_inputs",  # Dynamo goes through these two before and after
    "vmap_unbatches": "torch._functorch.vmap:_unwrap_batched",  # what a vmap maps
    "within_trace": "torch._guards:tracing",
    # AOTAutograd and Inductor
    "aot_autograd": "torch._dynamo.backends.common:aot_autograd",
    "aot_config": "torch._functorch:config",
    "aot_module_simplified": "torch._functorch.aot_autograd:aot_module_simplified",
    "boxed_nop": "torch._dynamo.backends.debugging:boxed_nop",
    "compile_fx": "torch._inductor.compile_fx:compile_fx",
    "CustomGraphPass": "torch._inductor.custom_graph_pass:CustomGraphPass",
    "CustomPartitionerFn": "torch._inductor.custom_graph_pass:CustomPartitionerFn",
    "enable_activation_offloading":
        "torch._functorch._activation_offloading.activation_offloading:enable_activation_offloading",
    "extract_fwd_bwd_modules": "torch._functorch.partitioners:_extract_fwd_bwd_modules",
    "fx_graph_cse": "torch._functorch.compile_utils:fx_graph_cse",
    "inductor_config": "torch._inductor:config",
    "lookup_backend": "torch._dynamo:lookup_backend",
    "min_cut_rematerialization_partition": "torch._functorch.partitioners:min_cut_rematerialization_partition",
    "preserve_node_ordering": "torch._inductor.fx_passes.control_dependencies:preserve_node_ordering",
    "raise_getitems": "torch._functorch.partitioners:raise_getitems",
    "reordering_to_mimic_autograd_engine": "torch._functorch.partitioners:reordering_to_mimic_autograd_engine",
    "select_decomp_table": "torch._inductor.decomposition:select_decomp_table",
    # process groups
    "get_default_store": "torch.distributed.distributed_c10d:_get_default_store",
    # kernels
    "dispatch_has_kernel": "torch._C:_dispatch_has_kernel_for_dispatch_key",
}  # fmt: skip
