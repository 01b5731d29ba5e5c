"""One order of passes: what is compiled, planned, measured and simulated are prefixes of it; it tells what it did."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import autosp
from autosp.compat.torch import compiled_call
from autosp.engine.planning import planned
from autosp.engine.traced import Planner
from autosp.errors import EngineError
from autosp.parity import Simulation
from autosp.passes import NAMES, PASSES, Context, Program, run
from autosp.passes.pipeline import SKIP
from autosp.passes.prediction import FIRST
from autosp.spec import load
from tests import architecture
from tests.execute.families import build

PACKAGE = Path(autosp.__file__).parent
# What the passes run: nobody else may, outside the stage that it belongs to, or there would be a second order.
STEPS = {
    ("capture.masks", "mark_attentions"), ("capture.means", "weigh_means"),
    ("capture.constraints", "constrain_modules"), ("capture.regions", "with_modules_mapped"),
    ("solve", "solve"), ("solve", "mapped"), ("solve", "tried"), ("lower", "lower"), ("lower", "check"),
    ("lower", "band"), ("lower", "check_bands"), ("recompute", "tilings"), ("recompute", "check_tiles"),
    ("recompute.tile_hoist", "hoisted"),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def batch(length: int = 64) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 64, (1, length), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "labels": ids}


def compiled(length: int = 64, spec: str | None = None) -> tuple[torch.nn.Module, Program]:
    """A windowed model after its first call, and the program that runs."""
    torch._dynamo.reset()
    mesh = dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=("dp", "sp"))
    model = build("MistralForCausalLM").train()
    autosp.compile(model, spec or "mistral", mesh=mesh, backend="aot_eager")
    model(**batch(length)).loss.backward()
    return model, compiled_call(model).backend.program


def number(name: str) -> int:
    return NAMES.index(name) + 1


def imported(path: Path) -> set[tuple[str, str]]:
    """What a file imports of other stages, as (module, name)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            inside = path.relative_to(PACKAGE).parts
            package = ".".join(inside[: len(inside) - node.level])
            module = f"{package}.{node.module}" if package else node.module
            found |= {(module, alias.name) for alias in node.names}
    return found


def test_no_second_order_is_written_anywhere():
    known = {step: [] for step in STEPS}
    for path in sorted(PACKAGE.rglob("*.py")):
        for step in imported(path) & STEPS:
            known[step].append(path.relative_to(PACKAGE).parts[0])
    assert known == {step: ["passes"] for step in STEPS}


@pytest.mark.parametrize("each", PASSES, ids=lambda p: p.name)
def test_a_pass_is_one_file_that_says_what_it_does_before_and_after(each):
    file = sys.modules[each.run.__module__]
    assert Path(file.__file__).stem == each.name
    assert each.summary.endswith(".") and re.search(r"Before: .*After: ", inspect.getdoc(file), re.DOTALL)


def test_what_is_compiled_went_through_all_passes_and_says_how_long_they_took():
    _, program = compiled()
    assert tuple(ran.name for ran in program.passes) == NAMES and program.stage == NAMES[-1]
    assert all(ran.seconds >= 0 for ran in program.passes)
    by_name = {ran.name: ran for ran in program.passes}
    assert by_name["window_attention"].after > by_name["window_attention"].before
    assert all(a.after == b.before for a, b in zip(program.passes, program.passes[1:], strict=False))
    assert program.windows == 2


def test_a_plan_is_a_prefix_of_what_is_compiled_and_a_simulation_another():
    _, program = compiled()
    alone = Planner(build("MistralForCausalLM").train(), batch(), "mistral").planned(1)[0]
    assert alone.fingerprint() == program.plan.fingerprint()
    plan, *_ = planned(build("MistralForCausalLM").train(), batch(), "mistral", sp=2)
    ranks = Simulation(plan, tiles=load("mistral").tile, checked=True).programs
    for rank in ranks:
        assert [ran.name for ran in rank.passes] == list(NAMES[NAMES.index("shard") + 1 : NAMES.index("tile") + 1])
    again = run(Program.of(plan), Context(rank=FIRST), until="window_attention")
    assert again.windows == ranks[0].windows == 2
    assert [n.target for n in again.local.graph.nodes if n.op == "call_function"].count(
        torch.ops.aten.scaled_dot_product_attention.default
    ) == sum(n.target is torch.ops.aten.scaled_dot_product_attention.default for n in ranks[0].local.graph.nodes)


def test_every_pass_is_dumped_by_its_number(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSP_DUMP", str(tmp_path))
    _, program = compiled()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["00_spec.txt", *(f"{i:02}_{name}.txt" for i, name in enumerate(NAMES, 1))]
    ran = program.passes[NAMES.index("window_attention")]
    text = (tmp_path / f"{number('window_attention'):02}_window_attention.txt").read_text()
    assert text.startswith("# window_attention: Attention over a sliding window runs block by block, each block of")
    assert f"# {ran.before} calls before, {ran.after} after, " in text
    assert "scaled_dot_product_attention" in text
    assert program.plan.summary().splitlines()[0] in (tmp_path / f"{number('shard'):02}_shard.txt").read_text()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/troubleshooting.md", "docs/gpu.md"])
def test_the_dumps_that_a_page_names_have_these_numbers(page):
    named = re.findall(r"`(\d\d)_([a-z_]+)\.txt`", (PACKAGE.parent / page).read_text())
    assert all(int(at) == number(name) for at, name in named)
    assert page != "README.md" or named


def test_an_optional_pass_is_left_out_by_its_name(monkeypatch):
    monkeypatch.setenv(SKIP, "window_attention, tile")
    _, program = compiled()
    assert [ran.name for ran in program.passes] == [n for n in NAMES if n not in ("window_attention", "tile")]
    assert program.windows == 0


def test_a_pass_that_cannot_be_left_out_is_refused(monkeypatch):
    monkeypatch.setenv(SKIP, "shard,window_atention")
    with pytest.raises(EngineError) as error:
        run(Program(None), Context())
    assert str(error.value) == (
        "error: 'shard' is a pass that every program needs\n"
        "  --> the environment variable AUTOSP_SKIP\n"
        "   = rule: AUTOSP_SKIP names passes that may be left out, by commas: hoist_slices, group_heads, window_attention, tile\n"
        "   = fix: take it out of AUTOSP_SKIP\n\n"
        "error: 'window_atention' is not a pass\n"
        "  --> the environment variable AUTOSP_SKIP\n"
        "   = rule: AUTOSP_SKIP names passes that may be left out, by commas: hoist_slices, group_heads, window_attention, tile\n"
        "   = fix: did you mean 'window_attention'?"
    )


def test_the_page_is_what_the_code_says():
    assert architecture.PAGE.read_text() == architecture.written()
