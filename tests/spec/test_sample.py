"""A model as it is traced: without a cache, wherever its configuration stands."""

from __future__ import annotations

from types import SimpleNamespace

from torch import nn

from autosp.spec.sample import switch_off_cache


def test_the_cache_of_a_model_in_a_model_is_switched_off_too():
    outer, inner = nn.Sequential(nn.Linear(1, 1)), SimpleNamespace(use_cache=True)
    outer.config, outer[0].config = SimpleNamespace(use_cache=False), inner
    assert switch_off_cache(outer) and not inner.use_cache
    assert not switch_off_cache(outer)
