"""A plan on disk: what was decided, and all that it was decided for, so that a stale one is told from a good one."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import attrs
import torch

from ..capture import Captured
from ..compat.torch import example_size
from ..errors import PlanError
from ..recompute import Compiler, Decision
from ..sharding import MeshAxis
from ..solve import Answer, Device, Plan
from ..spec import Recompute, Spec
from . import messages

FORMAT = 1
INPUT = "input"  # how the names of conditions on inputs begin
MODE = "the mode"


@attrs.frozen
class PlanFile:
    """conditions: what the plan was made for, by name, in words. graph, answer: the program's digest, and by operator
    which of its strategies it runs by. fingerprint: of the whole plan. budget: bytes of activations that tiles were made
    for. decision: what is saved for the backward; None where nothing was decided. summary: the plan for a reader."""

    conditions: Mapping[str, str]
    graph: str
    answer: Answer
    fingerprint: str
    budget: int
    decision: Decision | None
    summary: str
    path: str = ""

    def write(self, path: str | os.PathLike) -> None:
        """JSON, which `read_plan` reads: all of it or nothing, as several ranks may write one file."""
        fields = attrs.asdict(self, recurse=False)
        fields["answer"] = list(self.answer)
        fields["decision"] = None if self.decision is None else self.decision.fields()
        del fields["path"]
        fields["summary"] = self.summary.splitlines()
        path = Path(path)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as f:
            f.write(json.dumps({"autosp plan": FORMAT, **fields}) + "\n")
        os.replace(f.name, path)

    @property
    def varies(self) -> bool:
        """Whether it is for all lengths."""
        return any("n" in re.split(r"\W+", text) for name, text in self.conditions.items() if name.startswith(INPUT))

    def differences(self, now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
        """What is not as it was, by name: then, and now."""
        names = dict.fromkeys((*self.conditions, *now))
        pairs = {n: (self.conditions.get(n, "absent"), now.get(n, "absent")) for n in names}
        return {n: pair for n, pair in pairs.items() if pair[0] != pair[1]}


def saveable(plan: Plan, conditions: Mapping[str, str], budget: int, decision: Decision | None) -> Plan:
    """The plan, with a `save` that writes it."""

    def save(path: str | os.PathLike) -> None:
        digest, fingerprint, summary = plan.problem.digest(), plan.fingerprint(), plan.summary()
        PlanFile(conditions, digest, plan.answer, fingerprint, budget, decision, summary).write(path)

    return attrs.evolve(plan, saver=save)


def conditions_of(
    captured: Captured,
    model: str,
    spec: Spec,
    axis: MeshAxis,
    device: Device,
    recompute: Recompute,
    compiler: Compiler,
    dynamic: bool = False,
) -> dict[str, str]:
    """What a plan is made for, beside the program itself. dynamic: whether it is for all lengths."""
    vals = {n.name: n.meta.get("val") for n in captured.graph.graph.find_nodes(op="placeholder")}
    inputs = {p.name: vals[p.node] for p in captured.placeholders if p.role == "input"}
    weights = Counter(
        str(vals[p.node].dtype).removeprefix("torch.") for p in captured.placeholders if p.role == "param"
    )
    return {
        "autosp": metadata.version("autosp"),
        "torch": torch.__version__.partition("+")[0],
        "the model": model,
        "the spec": str(spec).strip(),
        "the axis": f"{axis.name}={axis.size}",
        "the device": f"{device.name} (description {sha256(repr(device).encode()).hexdigest()[:8]})",
        "recompute": str(recompute),
        "backend": "inductor" if compiler.fuses else "aot_eager or eager",
        "operators run on": compiler.device,
        MODE: "training" if captured.training else "evaluation",
        "the dtypes of parameters": ", ".join(f"{count} of {dtype}" for dtype, count in sorted(weights.items()))
        or "none",
        **{f"{INPUT} '{name}'": _described(x, dynamic) for name, x in sorted(inputs.items())},
    }


def _described(x: object, dynamic: bool) -> str:
    """Dtype and sizes of an input, "n" where it is for all; a number."""

    def number(n: int | torch.SymInt) -> str:
        return "n" if dynamic and not isinstance(n, int) else str(example_size(n))

    if not isinstance(x, torch.Tensor):
        return number(x) if isinstance(x, (int, torch.SymInt)) else repr(x)
    sizes = ", ".join(map(number, x.shape))
    return f"{str(x.dtype).removeprefix('torch.')}[{sizes}]"


def read_plan(path: str | os.PathLike) -> PlanFile:
    """Raises PlanError for a file that is none, or of another format."""
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        version = fields.pop("autosp plan")
    except OSError as e:
        raise PlanError(messages.no_plan(str(path), e.strerror or str(e))) from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise PlanError(messages.no_plan(str(path), "it is not JSON that plan.save wrote")) from None
    if version != FORMAT:
        raise PlanError(messages.other_format(str(path), version, FORMAT))
    try:
        decision = fields["decision"]
        fields["decision"] = None if decision is None else Decision.of(decision)
        fields["answer"] = tuple(fields["answer"])
        fields["summary"] = "\n".join(fields["summary"])
        return PlanFile(**fields, path=str(path))
    except (KeyError, TypeError, ValueError) as e:
        raise PlanError(messages.no_plan(str(path), f"it is damaged: {type(e).__name__}: {e}")) from None
