"""A spec's `map` statements held against a model before anything is planned, as a plan would try them.

The model is traced with symbols for its lengths, so that what is tried serves all of them: the lengths are those that
`autosp.solve.positionwise` takes from the numbers in each module, its limits among them.
"""

from __future__ import annotations

import copy
from functools import partial

import torch

from ..compat.torch import FakeTensorMode
from ..errors import AutospError, Problem
from ..passes import global_graph
from ..rules import default_rules
from ..sharding import MeshAxis
from ..solve.candidates import mark
from ..solve.problem import build
from ..solve.solver import seeds
from ..solve.stated import claims
from ..spec import Spec
from ..spec.joined import joined
from ..spec.sample import on_fakes, samples
from .failures import as_raised
from .fakes import without_cache
from .marks import layout_of
from .mesh import solved_axis

PARTS = (2, 5)  # 5 does not divide the lengths: uneven shards too
LENGTH = 16


def check_maps(spec: Spec, model: torch.nn.Module) -> tuple[list[Problem], list[str]]:
    """What is wrong with the statements, and a line on each that could not be tried.

    model: on the meta device, or any; its own weights are not used, and it is left as it is.
    """
    spec, fake, mode = joined(spec), copy.deepcopy(model).train(), FakeTensorMode()
    without_cache(fake)
    inputs = on_fakes(fake, next(samples(fake, spec, length=LENGTH)), mode)
    try:
        captured, _ = global_graph(fake, inputs, layout_of=partial(layout_of, spec), maps=spec.maps, dynamic=True)
        problem = build(captured, default_rules(), MeshAxis(solved_axis(spec), max(PARTS)))
        mark(problem, seeds(problem, captured.layouts))
    except AutospError as error:
        return list(error.problems), []
    except Exception as error:  # Dynamo's: it may be the made-up inputs
        raised = as_raised(error, model)
        why = raised.problems[0].what if isinstance(raised, AutospError) else f"{type(error).__name__}: {error}"
        return [], [f"'{each}' was not run: {why.splitlines()[0]}" for each in spec.maps]
    problems: dict[Problem, None] = {}
    notes: dict[str, None] = {}
    for claim in (each for p in PARTS for each in claims(problem, p)):
        if claim.fault is not None:
            known = any(claim.fault.where == each.where for each in problems)
            problems |= {} if known else {claim.fault: None}
        elif not claim.verdict.proved:
            notes[f"'{claim.statement}' was not run at {claim.path}: {claim.verdict.why}"] = None
    return list(problems), list(notes)
