"""A declarative sharding layer over PyTorch for training on long contexts.

Write what is sharded; `autosp` finds where communication must go and rewrites the compiled graph:

    engine, *_ = deepspeed.initialize(model=model, config=config)
    autosp.compile(engine)
    loss = engine(**batch).loss

Names are imported when they are first used, so that `import autosp` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .version import __version__ as __version__

if TYPE_CHECKING:  # what editors and type checkers see of `_HOME`; a test holds the two together
    from . import deepspeed, engine, errors, rules
    from .engine.entry import backend, compile
    from .engine.measuring import measure
    from .engine.planning import plan
    from .errors import (
        AutospError,
        CaptureError,
        CheckError,
        EngineError,
        InputError,
        PlanError,
        RankError,
        RuleError,
        SpecError,
        StalePlanError,
    )
    from .spec.constraining import constrain
    from .spec.marks import annotate
    from .spec.parser import load, parse
    from .syntax.layout import P

_HOME = {
    "parse": "autosp.spec",
    "load": "autosp.spec",
    "P": "autosp.syntax",
    "annotate": "autosp.spec",
    "constrain": "autosp.spec",
    "compile": "autosp.engine",
    "backend": "autosp.engine",
    "plan": "autosp.engine",
    "measure": "autosp.engine",
    "AutospError": "autosp.errors",
    "SpecError": "autosp.errors",
    "RuleError": "autosp.errors",
    "PlanError": "autosp.errors",
    "InputError": "autosp.errors",
    "CaptureError": "autosp.errors",
    "CheckError": "autosp.errors",
    "EngineError": "autosp.errors",
    "RankError": "autosp.errors",
    "StalePlanError": "autosp.errors",
}
_SUBMODULES = ("deepspeed", "engine", "errors", "rules")

__all__ = [
    "AutospError",
    "CaptureError",
    "CheckError",
    "EngineError",
    "InputError",
    "P",
    "PlanError",
    "RankError",
    "RuleError",
    "SpecError",
    "StalePlanError",
    "annotate",
    "backend",
    "compile",
    "constrain",
    "deepspeed",
    "engine",
    "errors",
    "load",
    "measure",
    "parse",
    "plan",
    "rules",
]


if not TYPE_CHECKING:  # else any name would be one, a misspelt one too

    def __getattr__(name: str):
        if name in _SUBMODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
