"""One thread a process, and DeepSpeed on the CPU: set before anything imports torch. And which tests are fast."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

TESTS = Path(__file__).parent
# What `pytest -m fast` runs, beside the files of the top level: no launch of processes, and each kind of check.
FAST = (
    "capture", "cli/test_plan.py", "compat", "engine/test_longest.py", "engine/test_words.py",
    "layout", "lower",
    "recompute/test_choose.py", "recompute/test_kernels.py", "recompute/test_state.py",
    "recompute/test_tile_words.py", "report", "rules", "solve", "spec", "syntax",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fast = is_fast(item.path)
        assert not (fast and "launched" in item.fixturenames), f"{item.nodeid} launches processes: it is not fast"
        if fast and not item.get_closest_marker("slow"):
            item.add_marker("fast")
        # Under pytest-xdist (--dist loadgroup) one process starts all others; a launch serves many tests.
        item.add_marker(pytest.mark.xdist_group(str(item.path) if fast else "launches"))


def is_fast(path: Path) -> bool:
    """Whether the tests of a file that are not slow are fast."""
    own = path.relative_to(TESTS)
    return own.parent == Path() or any(own.is_relative_to(each) for each in FAST)
