"""One thread a process, and DeepSpeed on the CPU: set before anything imports torch. And which tests are fast."""

import os
from pathlib import Path

import pytest

from tests import expected

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

TESTS = Path(__file__).parent
# What `pytest -m fast` runs, beside the files of the top level: no launch of processes, and each kind of check.
FAST = (
    "capture", "cli/test_plan.py", "compat", "engine/test_longest.py", "engine/test_words.py",
    "lower",
    "recompute/test_choose.py", "recompute/test_kernels.py", "recompute/test_state.py",
    "recompute/test_tile_words.py", "report", "rules", "solve", "spec", "syntax",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew", action="store_true", help="write the golden texts of the tests that run anew")


def pytest_configure(config: pytest.Config) -> None:
    expected.renewing = config.getoption("--renew")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fast = is_fast(item.path)
        assert not (fast and "launched" in item.fixturenames), f"{item.nodeid} launches processes: it is not fast"
        if fast and not item.get_closest_marker("slow"):
            item.add_marker("fast")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Under `-n 2` one process starts all others, for a launch serves many tests; fast ones go by the file.

    Not by `xdist_group` marks: pytest-xdist 3.8 writes them where pytest 9.2 no longer reads.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByLaunches(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return ByLaunches(config, log)


def group_of(nodeid: str) -> str:
    """What runs in one process with a test, by name."""
    file = nodeid.partition("::")[0]
    return file if is_fast(TESTS.parent / file) else "launches"


def is_fast(path: Path) -> bool:
    """Whether the tests of a file that are not slow are fast."""
    own = path.relative_to(TESTS)
    return own.parent == Path() or any(own.is_relative_to(each) for each in FAST)
