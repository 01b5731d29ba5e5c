"""A plan on disk: what was decided, and all that it was decided for, so that a stale one is told from a good one."""

from __future__ import annotations

import json
import operator
import os
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import attrs
import torch

from ..capture import Captured
from ..compat.torch import example_size
from ..errors import PlanError
from ..passes.pipeline import SKIP
from ..recompute import Decision
from ..recompute.compiler import Place
from ..sharding import MeshAxis
from ..solve import Answer, Device, Plan
from ..spec import Recompute, Spec
from ..version import __version__
from . import messages

FORMAT = 1
ABSENT = "absent"
INPUT = "input"  # how the names of conditions on inputs begin
MODE = "the mode"


@attrs.frozen
class PlanFile:
    """conditions: what the plan was made for, by name, in words. graph, answer: the program's digest, and by operator
    which of its strategies it runs by. fingerprint: of the whole plan. budget: bytes of activations that tiles were made
    for. decision: what is saved for the backward; None where nothing was decided. path: where it was read."""

    conditions: Mapping[str, str]
    graph: str
    answer: Answer
    fingerprint: str
    budget: int
    decision: Decision | None
    path: str = ""

    def write(self, path: str | os.PathLike, summary: str) -> None:
        """JSON, which `read_plan` reads, with a summary for a reader: all of it or nothing, as several ranks may write
        one file. Raises PlanError where it cannot be written."""
        fields = attrs.asdict(self, recurse=False, filter=lambda field, _: field.name != "path")
        fields |= {"answer": list(self.answer), "summary": summary.splitlines()}
        fields["decision"] = None if self.decision is None else self.decision.fields()
        path = refuse_unwritable(path)
        part = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            part.write_text(json.dumps({"autosp plan": FORMAT, **fields}) + "\n", encoding="utf-8")
            os.replace(part, path)
        except OSError as e:
            part.unlink(missing_ok=True)
            raise PlanError(messages.unwritable(str(path), e.strerror or str(e))) from None

    def differences(self, now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
        """What is not as it was, by name: then, and now."""
        names = dict.fromkeys((*self.conditions, *now))
        pairs = {n: (self.conditions.get(n, ABSENT), now.get(n, ABSENT)) for n in names}
        return {n: pair for n, pair in pairs.items() if pair[0] != pair[1]}


def refuse_unwritable(path: str | os.PathLike) -> Path:
    """The path, in a folder that is there. Raises PlanError where it is not."""
    path = Path(path)
    if not path.parent.is_dir():
        raise PlanError(messages.unwritable(str(path), f"there is no folder '{path.parent}'"))
    return path


def saveable(plan: Plan, conditions: Mapping[str, str], budget: int, decision: Decision | None) -> Plan:
    """The plan of a training step, with a `save` that writes it; another one as it is."""
    if not plan.problem.captured.training:
        return plan

    def save(path: str | os.PathLike) -> None:
        digest, fingerprint = plan.problem.digest(), plan.fingerprint()
        PlanFile(conditions, digest, plan.answer, fingerprint, budget, decision).write(path, plan.summary())

    return attrs.evolve(plan, saver=save)


def conditions_of(
    captured: Captured,
    model: str,
    spec: Spec,
    axis: MeshAxis,
    device: Device,
    recompute: Recompute,
    backend: str,
    place: Place,
    dynamic: bool = False,
) -> dict[str, str]:
    """What a plan is made for, beside the program itself. place: where its operators run; dynamic: whether it is for all
    lengths: under a budget of bytes, for those up to the next power of two."""
    vals = {n.name: n.meta.get("val") for n in captured.graph.graph.find_nodes(op="placeholder")}
    inputs = {p.name: vals[p.node] for p in captured.placeholders if p.role == "input"}
    weights = Counter(messages.dtype_text(vals[p.node]) for p in captured.placeholders if p.role == "param")

    def number(n: int | torch.SymInt) -> str:
        if not dynamic or isinstance(n, int):
            return str(example_size(n))
        return f"n up to {longest_alike(n)}" if recompute.in_bytes else "n"

    def described(x: object) -> str:
        if not isinstance(x, torch.Tensor):
            return number(x) if isinstance(x, (int, torch.SymInt)) else repr(x)
        return messages.tensor_text(x, number)

    return {
        "autosp": __version__,
        "torch": torch.__version__.partition("+")[0],
        "the model": model,
        "the spec": str(spec).strip(),
        "the axis": f"{axis.name}={axis.size}",
        "the device": f"{device.name} (description {sha256(repr(device).encode()).hexdigest()[:8]})",
        "recompute": str(recompute),
        "backend": backend,
        "operators run on": place,
        "passes left out": os.environ.get(SKIP, "") or "none",
        MODE: "training" if captured.training else "evaluation",
        "the dtypes of parameters": ", ".join(f"{n} of {dtype}" for dtype, n in sorted(weights.items())) or "none",
        **{f"{INPUT} '{name}'": described(x) for name, x in sorted(inputs.items())},
    }


def longest_alike(size: int | torch.SymInt) -> int:
    """The longest that one decision under a budget of bytes serves, made at this size: the next power of two."""
    return 1 << (int(example_size(size)) - 1).bit_length()


def sizes_alone(differences: Mapping[str, tuple[str, str]]) -> bool:
    """Whether nothing differs but the sizes of inputs."""
    return all(
        name.startswith(INPUT) and ABSENT not in pair and len({text.partition("[")[0] for text in pair}) == 1
        for name, pair in differences.items()
    )


def read_plan(path: str | os.PathLike) -> PlanFile:
    """Raises PlanError for a file that is none, or of another format."""
    if not isinstance(path, (str, os.PathLike)):
        raise PlanError(messages.no_path(type(path).__name__))
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
        fields["answer"] = tuple(map(operator.index, fields["answer"]))
        fields["conditions"] = {str(name): str(text) for name, text in fields["conditions"].items()}
        del fields["summary"]
        return PlanFile(**fields, path=str(path))
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise PlanError(messages.no_plan(str(path), f"it is damaged: {type(e).__name__}: {e}")) from None
