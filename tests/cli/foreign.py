"""Models that a graph cannot hold, with a batch that they take."""

from __future__ import annotations

import torch

from tests.engine import test_foreign


def __getattr__(name: str):
    def made():
        return getattr(test_foreign, name)(), {"x": torch.ones(2, 12, 4)}

    if not hasattr(test_foreign, name):
        raise AttributeError(name)
    return made
