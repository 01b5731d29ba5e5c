"""Simulated cells of the matrix run beside all other tests: most of those leave a core idle."""

from __future__ import annotations

from concurrent.futures import Executor, Future

import pytest

from tests.execute.matrix import simulate_rows, workers

POOL = pytest.StashKey[Executor]()
ROWS = pytest.StashKey[dict[str, Future]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The matrix comes last, when it is done."""
    items.sort(key=_is_simulated)


def pytest_collection_finish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput"):
        _start(session)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Under pytest-xdist, in the one process that runs this folder (every process collects it)."""
    if ROWS not in item.session.stash:
        _start(item.session)


def _start(session: pytest.Session) -> None:
    """Starts the selected cells: in one process beside other tests, in two where there are few of those."""
    cells = [item.callspec.params["cell"] for item in session.items if _is_simulated(item)]
    if cells and not session.config.option.collectonly:
        session.stash[POOL] = pool = workers(1 if len(session.items) > 2 * len(cells) else 2)
        session.stash[ROWS] = simulate_rows(pool, cells)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if POOL in session.stash:
        session.stash[POOL].shutdown(wait=False, cancel_futures=True)


@pytest.fixture
def simulated(request: pytest.FixtureRequest) -> dict[str, Future]:
    """Verdicts by cell, to come, by row of the matrix."""
    return request.session.stash[ROWS]


def _is_simulated(item: pytest.Item) -> bool:
    return "simulated" in getattr(item, "fixturenames", ())
