"""One thread a process, and DeepSpeed on the CPU: set before anything imports torch. And which tests are unit tests and
which are fast."""

import os
from pathlib import Path

import pytest

from tests import expected
from tests.older import too_old

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

TESTS = Path(__file__).parent
# What `pytest -m fast` runs, beside the files of the top level: no launch of processes, and each kind of check.
FAST = (
    "capture", "cli/test_plan.py", "compat", "engine/test_longest.py", "engine/test_words.py",
    "lower",
    "recompute/test_choose.py", "recompute/test_kernels.py", "recompute/test_state.py",
    "recompute/test_tile_words.py", "report", "rules", "sharding", "solve", "spec", "syntax",
)  # fmt: skip
# What `pytest -m unit` runs: text and values. No model is captured but a tiny one, nothing is started, all of it in less
# than a minute on two cores. Folders and files, and what is left out of them.
UNIT = (
    "compat", "engine/test_longest.py", "recompute/test_state.py", "recompute/test_tile_words.py", "report",
    "rules", "sharding", "solve/test_cost.py", "spec", "syntax",
)  # fmt: skip
MORE = (
    "compat/test_names.py", "rules/test_dtensor_witness.py", "rules/test_missing.py", "rules/test_saves.py",
    "rules/test_verify.py", "test_doctests.py", "test_gpu_rehearsal.py", "test_groups.py", "test_package.py",
)  # fmt: skip
MOST_PROCESSES = 8


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew", action="store_true", help="write the golden texts of the tests that run anew")


def pytest_configure(config: pytest.Config) -> None:
    expected.renewing = config.getoption("--renew")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Under `-m unit` no other file is read: the libraries that those import take seconds."""
    other = collection_path.name.startswith("test_") and not is_unit(collection_path)
    return True if other and config.option.markexpr == "unit" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if reason := too_old(item.nodeid.removeprefix("tests/")):
            item.add_marker(pytest.mark.skip(reason=reason))
        fast = is_fast(item.path)
        assert not (fast and "launched" in item.fixturenames), f"{item.nodeid} launches processes: it is not fast"
        if fast and not item.get_closest_marker("slow"):
            item.add_marker("fast")
            if is_unit(item.path):
                item.add_marker("unit")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """A run of no file in particular goes over the cores; `-n 0` keeps it in one process."""
    if is_whole(config) and getattr(config.option, "numprocesses", 0) is None:
        config.option.numprocesses = "auto"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """A process a core, and no more than there is work for: what launches ranks is one group."""
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def is_whole(config: pytest.Config) -> bool:
    """Whether the tests of all folders are asked for, by the process that was started by hand."""
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and "PYTEST_XDIST_WORKER" not in os.environ


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


def is_unit(path: Path) -> bool:
    """Whether the tests of a file that are fast are unit tests."""
    own = path.relative_to(TESTS)
    within = own.parent == Path() or any(own.is_relative_to(each) for each in UNIT)
    return within and str(own) not in MORE
