"""A declarative sharding layer over PyTorch for training on long contexts.

Write what is sharded; `autosp` finds where communication must go and rewrites the compiled graph:

    engine, *_ = deepspeed.initialize(model=model, config=config)
    autosp.compile(engine)
    loss = engine(**batch).loss

Names are imported when they are first used, so that `import autosp` costs nothing.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

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
}
_SUBMODULES = ("deepspeed", "errors", "rules")

__all__ = [*_HOME, *_SUBMODULES]


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
