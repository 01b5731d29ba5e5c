"""A process group of one, and one launch of real ranks for each size of the world, for all selected tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist

from autosp.parity.launch import Outcome, errors, launch
from tests.engine import misuse

Found = dict[tuple[str, str], tuple[Outcome, ...]]


@pytest.fixture(scope="module")
def world_of_one() -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def launched(request: pytest.FixtureRequest) -> Found:
    """Outcomes by function and name. A test module says in `RANKS` how many ranks run which function for a name."""
    wanted: dict[int, dict[tuple[str, str], None]] = {}
    for item in request.session.items:
        if "ranks" not in item.fixturenames or not hasattr(item.module, "RANKS"):  # of other folders too
            continue
        name = item.callspec.params["name"]
        world, function = item.module.RANKS[name]
        wanted.setdefault(world, {})[function, name] = None
    found: Found = {}
    for world, items in wanted.items():
        order = sorted(items, key=lambda item: item[1] in misuse.LAST)
        found.update(zip(order, launch(world, "tests.engine.conftest:one_rank", order), strict=True))
    return found


@pytest.fixture
def ranks(request: pytest.FixtureRequest, launched: Found) -> tuple[Outcome, ...]:
    """What each rank made of this test's name; none of them failed."""
    name = request.node.callspec.params["name"]
    outcomes = launched[request.module.RANKS[name][1], name]
    assert not errors(outcomes), errors(outcomes)
    return outcomes


def one_rank(item: tuple[str, str]) -> object:
    from autosp.parity.worker import _load

    function, name = item
    return _load(function)(name)
