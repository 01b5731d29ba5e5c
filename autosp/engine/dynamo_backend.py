"""The `torch.compile` backend: Dynamo's graph in, one rank's compiled local graph out."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import attrs
import torch
from torch import fx

from ..capture import Captured, GraphOutput, Names, capture, name_modules, specialise
from ..compat.torch import fake_mode_of_trace, unguarded
from ..errors import EngineError, Problem, StalePlanError, did_you_mean
from ..lower import Rank
from ..passes import Context, NeedsSymbols, Program, fixed_lengths, run, sharded
from ..passes.pipeline import write
from ..recompute import Decision
from ..recompute.notes import offload_notes, tile_notes
from ..sharding import MeshAxis
from ..solve import Around, Device, Ends, Plan, load_device
from ..spec import Output as OutputStatement
from ..spec import Recompute, Spec
from ..spec.policies import as_recompute
from .absent import Absent, left_out, with_absent
from .agree import Agreement
from .compiled import Compiled, cache_counts
from .failures import asserting
from .hooks import warn_of_hooks
from .inner import compile_inner, compiler_of, inner_for
from .marks import layout_of
from .messages import each_length, reason
from .plan_file import PlanFile, conditions_of, longest_alike, saveable
from .random import with_own_stream
from .recomputing import States, decided, limit_of
from .reuse import Reuse, settled

BACKENDS = ("inductor", "aot_eager", "eager")


@attrs.frozen
class Options:
    """How a plan is made and run.

    dynamic: True plans for all lengths at once, False for each, None for all once a second one has come.
    inner: what compiles the local graph. grad_scale: what every output's gradient is multiplied
    by; complete: whether parameter gradients are summed over the axis in the backward. saved: a plan to run by.
    """

    inner: str = "inductor"
    device: Device = attrs.Factory(lambda: load_device("a100-80gb"))
    dynamic: bool | None = None
    recompute: Recompute | str | None = None
    grad_scale: float = 1.0
    complete: bool = True
    states: States = States()
    saved: PlanFile | None = None

    def __attrs_post_init__(self) -> None:
        if self.inner not in BACKENDS:
            raise EngineError(
                Problem(
                    what=f"no backend '{self.inner}'",
                    rule=f"backend is one of {', '.join(BACKENDS)}",
                    fix=did_you_mean(self.inner, BACKENDS, "use 'inductor'"),
                    where="autosp.compile(backend=...)",
                )
            )
        if self.recompute is not None:
            policy = as_recompute(self.recompute, None, "autosp.compile(recompute=...)")
            if self.inner == "eager" and policy.mode != "none":
                warnings.warn("autosp: backend='eager' has no joint graph; recompute is ignored", stacklevel=4)


class Backend:
    """One per compiled model: Dynamo reuses code across modules while the backend is one object.

    model: whose tree gives the names of modules, parameters and buffers; None, those that the graph reaches.
    """

    def __init__(
        self,
        spec: Spec,
        agreement: Agreement,
        options: Options,
        on_plan: Callable[[Plan], None] = lambda plan: None,
        model: torch.nn.Module | None = None,
    ):
        self.spec, self.agreement, self.options, self.on_plan = spec, agreement, options, on_plan
        self.model, self.mesh = model, agreement.mesh
        self.plans: list[Plan] = []
        self.program: Program | None = None  # the last that was compiled
        self.refused: tuple[Around, ...] = ()
        self.reuse = Reuse(options.saved)
        self.compiled: Compiled | None = None  # how the last was
        self.warned = False  # that each length is compiled by itself
        self.retraced = False  # who calls traces once more where the lengths have to be symbols

    @property
    def per_shard(self) -> bool:
        """Whether some modules run per shard: the lengths that they see are marked, to be symbols in every trace."""
        return bool(self.spec.maps or self.refused)

    @property
    def axis(self) -> MeshAxis:
        """The axis that is solved for."""
        return MeshAxis(self.mesh.axis, self.mesh.size)

    def __call__(self, gm: fx.GraphModule, example_inputs: Sequence) -> Callable:
        if not self.options.complete and self.mesh.size > 1:
            warn_of_hooks(self.model)
        with self.agreement.attempt():
            names = name_modules(gm, example_inputs, self.model)
            compiled = self._compiled(gm, example_inputs, names)
            self._compare()  # last: a rank that fails before has no one waiting for it in a collective
        return self._announced(compiled)

    def _compiled(self, gm: fx.GraphModule, example_inputs: Sequence, names: Names) -> Callable:
        """For all lengths, or for these. What is not required to be for all and cannot be is for these."""
        required = self.options.dynamic is True
        varies = bool(self.plans) if self.per_shard else any(map(_is_symbol, example_inputs))
        preferred = required or (varies and self.options.dynamic is None)
        dynamic = preferred and _long_enough(gm, self.mesh.size)
        before, again = len(self.plans), dynamic and not required
        try:
            compiled = self._program(gm, example_inputs, names, dynamic)
        except StalePlanError:  # true of all lengths, and no reason to compile each by itself
            raise
        except Exception as e:  # whatever it was: where it is true of these lengths too, it is met again
            if not again or not self.agreement.failed_alike("plan", e):
                raise
            failed = e
        else:
            self.agreement.went_well("plan", wait=again)
            return compiled
        del self.plans[before:]
        compiled = self._program(gm, example_inputs, names, dynamic=False)
        if not self.warned:
            self.warned = True
            warnings.warn(f"autosp: {each_length(reason(failed))}", stacklevel=2)
        return compiled

    def _program(self, gm: fx.GraphModule, example_inputs: Sequence, names: Names, dynamic: bool) -> Callable:
        began, before = time.perf_counter(), cache_counts()
        program, absent = self._passed(gm, example_inputs, names, dynamic)
        plan, local, planned = program.plan, program.local, time.perf_counter()
        assert plan is not None and local is not None
        with _no_local_guards(dynamic):
            inner, decision = inner_for(self.options.inner, plan), program.decision
            compiled = compile_inner(inner, local, example_inputs, None if decision is None else decision.choice)
        done = time.perf_counter()
        self.compiled = Compiled(planned - began, done - planned, self.reuse.path, before)
        if dynamic and self.options.dynamic is None and self._budgeted():
            _guard_memory(gm)
        compiled = asserting(compiled, program.captured)
        return with_absent(with_own_stream(compiled, plan, self.mesh.rank), absent)

    def _budgeted(self) -> bool:
        """Whether what is kept depends on how long the inputs are."""
        in_training = torch.is_grad_enabled() and self.options.inner != "eager"
        return in_training and self.policy.in_bytes

    def _announced(self, compiled: Callable) -> Callable:
        if self.mesh.size == 1:
            return compiled

        def run(*args):
            self.agreement.enter()
            return compiled(*args)

        return run

    def _passed(
        self, gm: fx.GraphModule, example_inputs: Sequence, names: Names, dynamic: bool
    ) -> tuple[Program, dict[int, Absent]]:
        """The program after all passes, and what the call does not give back."""
        captured = capture(
            gm,
            example_inputs,
            layout_of=partial(layout_of, self.spec),
            dynamic=dynamic or self.per_shard,
            names=names,
        )
        write("00_spec.txt", str(self.spec))
        conditions = self._conditions(captured, example_inputs, dynamic)
        file = self.reuse.of(conditions)
        context = self._context(captured, example_inputs, dynamic, file)
        try:
            program = sharded(Program(captured), context)
        except NeedsSymbols as needed:
            if self.refused or not self.retraced:
                raise fixed_lengths(needed) from None
            raise
        self.refused = program.mapped
        if not dynamic:
            specialise(example_inputs)  # last: what is a number from then on was a symbol to the planner
        eager = self.options.inner == "eager"  # without a joint graph all is held anyway
        program = run(program, context, until="tile", skip={"tile"} if eager else ())
        plan = program.plan
        assert plan is not None
        if program.captured.training and not eager:
            offloaded = offload_notes(self._offloads, self.options.device.host if torch.cuda.is_available() else 0.0)
            notes = (*plan.notes, *tile_notes(program.tiled, program.notes), *offloaded)
            plan = attrs.evolve(plan, notes=notes)
            program = attrs.evolve(program, plan=plan)
        self.reuse.confirm(file, plan)
        program = run(program, context)
        plan = saveable(plan, conditions, context.budget, program.decision)
        self.program = program = attrs.evolve(program, plan=plan)
        self.plans.append(plan)
        self.on_plan(plan)
        captured = program.captured
        absent = left_out(captured, ends(self.spec, captured), statements(self.spec, captured), self.spec)
        return self.program, absent

    def _conditions(self, captured: Captured, examples: Sequence, dynamic: bool) -> dict[str, str]:
        """What a plan of this call is made for."""
        options = self.options
        return conditions_of(
            captured, type(self.model).__name__, self.spec, self.axis, options.device,
            self.policy, options.inner, compiler_of(options.inner, examples).device, dynamic,
        )  # fmt: skip

    def _context(self, captured: Captured, examples: Sequence, dynamic: bool, file: PlanFile | None) -> Context:
        """The options of the passes for this call. file: the plan that it runs by, if any."""
        options, eager = self.options, self.options.inner == "eager"
        rank = Rank(self.mesh.rank, self.mesh.group_name, options.grad_scale, options.complete, self.mesh.others)
        return Context(
            constraints=self.spec.constraints, mean_over=self._mean_over(), maps=self.spec.maps,
            ends=partial(ends, self.spec), axis=self.axis, device=options.device,
            dynamic=dynamic, mapped=self.refused, rank=rank, tiles=self.spec.tile,
            settle=partial(settled, file, self.agreement, str(self.spec)),
            budget=0 if eager else self._budget(captured, examples) if file is None else file.budget,
            choose=None if eager else partial(self._decided, examples, file),
        )  # fmt: skip

    def _budget(self, captured: Captured, examples: Sequence) -> int:
        """Bytes that activations may take on the device of the description, which the ranks share: their tiles are
        alike."""
        state = self.options.states.of(captured, examples)
        return max(limit_of(self.policy, state, self.options.device.usable) or 0, 0)

    @property
    def _offloads(self) -> bool:
        return self.spec.offload == "auto"

    @property
    def policy(self) -> Recompute:
        """The policy of recomputation: the call's, else the spec's."""
        return as_recompute(self.options.recompute, self.spec, "autosp.compile(recompute=...)")

    def _decided(self, examples: Sequence, file: PlanFile | None, plan: Plan, local: fx.GraphModule) -> Decision | None:
        """What is saved, on every rank as on the first."""
        inner = inner_for(self.options.inner, plan)
        return decided(
            self.policy, plan, local, examples, self.agreement, self.options.states,
            compiler_of(inner, examples), offload=self._offloads, file=file,
        )  # fmt: skip

    def _mean_over(self) -> tuple[str, ...]:
        """The axes beside our own that the loss is a mean over; a forward without a loss has none."""
        return tuple(self.mesh.others) if torch.is_grad_enabled() else ()

    def _compare(self) -> None:
        plan = self.plans[-1]
        order = " ".join(f"{r.kind}({','.join(r.values)})" for r in plan.reshards if r.kind != "slice")
        self.agreement.same(
            "plan",
            {
                "the number of operators": str(len(plan.problem.ops)),
                "the order of collectives": order or "none",
                "the plan's fingerprint": plan.fingerprint(),
            },
            rule="ranks of one group run the same plan, so that their collectives meet",
            fix="give every rank the same model, spec, input sizes and package versions",
        )


def ends(spec: Spec, captured: Captured) -> Ends:
    """The mode of each output: the spec's modes in training, else whole values. Without a loss
    every output is produced: `none` is whole there."""
    has_loss = any(o.name == "loss" for o in captured.outputs)
    stated = statements(spec, captured).values()
    modes = (_mode(each) if captured.training else "whole" for each in stated)
    return Ends(tuple("whole" if mode == "none" and not has_loss else mode for mode in modes), spec.attention)


def statements(spec: Spec, captured: Captured) -> dict[int, OutputStatement | None]:
    """The spec's statement of each output, by its position; None of what outlives the call."""
    return {o.position: _statement(spec, captured, o) for o in captured.outputs}


def _statement(spec: Spec, captured: Captured, output: GraphOutput) -> OutputStatement | None:
    if output.kept or output.buffer is not None:
        return None
    return spec.output(output.name) if output.name else _unnamed(spec, captured, output)


def _mode(statement: OutputStatement | None) -> Literal["none", "local", "whole"]:
    if statement is None:
        return "whole"
    if statement.mode == "layout":
        return "local" if statement.layout is not None and statement.layout.axes else "whole"
    return statement.mode


def _unnamed(spec: Spec, captured: Captured, output: GraphOutput):
    """The statement for an output that is neither loss nor logits: scalars and tensors of the spec's
    other outputs, by kind (a model's `router_logits` are a tensor of every layer)."""
    node = captured.node_of(output)
    val = None if node is None else node.meta.get("val")
    if not isinstance(val, torch.Tensor) or not val.is_floating_point():
        return None
    others = [o for o in spec.outputs if o.name not in ("loss", "logits")]
    scalar = [o for o in others if o.layout is not None and not o.layout.dims]
    tensor = [o for o in others if o not in scalar]
    return next(iter(scalar if val.dim() == 0 else tensor), None)


def _is_symbol(example: object) -> bool:
    """Whether Dynamo has seen another size, or another number, here."""
    sizes = example.shape if isinstance(example, torch.Tensor) else (example,)
    return any(isinstance(size, torch.SymInt) for size in sizes)


def _guard_memory(gm: fx.GraphModule) -> None:
    """What is kept and what recomputed was chosen for the sizes at hand: longer ones, from the next power of two on,
    are compiled anew. The comparison is guarded on global sizes, so that ranks do so together."""
    for size in _varying(gm):
        bool(size <= longest_alike(size))


def _varying(gm: fx.GraphModule) -> list[torch.SymInt]:
    """The sizes of inputs that Dynamo holds as symbols."""
    values = [n.meta.get("example_value") for n in gm.graph.nodes if n.op == "placeholder"]
    return [s for t in values if isinstance(t, torch.Tensor) for s in t.shape if isinstance(s, torch.SymInt)]


def _long_enough(gm: fx.GraphModule, p: int) -> bool:
    """Whether every symbolic size is at least 2P: then no rank's part is empty or of size one, and
    what is traced for one length holds for all. The comparison is guarded on the global size."""
    symbols = [n.meta.get("example_value") for n in gm.graph.nodes if n.op == "placeholder"]
    tensors = [v for v in symbols if isinstance(v, torch.Tensor)]
    sizes = [s for t in tensors for s in t.shape[1:2] if isinstance(s, torch.SymInt)]
    return all(bool(s >= 2 * p) for s in sizes)


def _no_local_guards(dynamic: bool) -> contextlib.AbstractContextManager:
    """Local sizes are derived from global ones and never guarded: a guard on a rank's own size
    would let one rank recompile and leave the others waiting."""
    return unguarded(fake_mode_of_trace() if dynamic else None)
