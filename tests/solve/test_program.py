"""The solver's library in a user's process: it says nothing, takes none of the user's settings, and leaves nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import highspy
import numpy as np
import pytest

from autosp.errors import PlanError
from autosp.solve.program import IntegerProgram, broken_solver, run, solve

ROOT = Path(__file__).parents[2]
USERS = """
import highspy, os, time
from tests.solve.test_program import assignment, users_own
from autosp.solve.program import solve
def threads(wanted=None):
    end = time.monotonic() + 5  # a thread that was joined may be on its way out still
    while (n := len(os.listdir("/proc/self/task"))) != wanted and wanted is not None and time.monotonic() < end:
        time.sleep(0.01)
    return n
"""


def assignment(n: int = 12) -> IntegerProgram:
    """n workers, n tasks, each once: an integer program whose answer is unique."""
    costs = np.random.default_rng(0).random((n, n))
    program = IntegerProgram()
    x = [[program.variable(float(costs[i, j]), integer=True) for j in range(n)] for i in range(n)]
    for i in range(n):
        program.equal(x[i], to=1.0)
        program.equal([row[i] for row in x], to=1.0)
    return program


def users_own(threads: int) -> tuple[str, float]:
    """A user's own problem: how the run ended, and its objective."""
    h = highspy.Highs()
    h.setOptionValue("output_flag", False)
    h.setOptionValue("threads", threads)
    h.addVar(0.0, 4.0)
    h.changeColCost(0, -1.0)
    h.changeColIntegrality(0, highspy.HighsVarType.kInteger)
    ran = h.run()
    return ran.name, h.getInfo().objective_function_value


def python(code: str) -> str:
    """What a fresh process prints to stdout, its C libraries included."""
    done = subprocess.run([sys.executable, "-c", USERS + code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_solve_leaves_stdout_empty():
    assert python("solve(assignment())") == ""


@pytest.mark.parametrize("threads", [0, 2])
def test_a_users_own_solve_before_and_after_ours_is_theirs(threads: int):
    """One line: the library's banner, where the user's own object prints it, stands before."""
    code = f"""
first = users_own({threads}); before = threads()
found = solve(assignment()).tolist(); after = threads(before)
print(first, users_own({threads}), before == after, found)
"""
    said = python(code).splitlines()[-1]
    assert said == f"('kOk', -4.0) ('kOk', -4.0) True {solve(assignment()).tolist()}"


def test_ours_before_a_users_first_leaves_the_number_of_threads_to_them():
    said = python("a = threads(); solve(assignment()); b = threads(a); print(a == b, users_own(2), users_own(2))")
    assert said.splitlines()[-1] == "True ('kOk', -4.0) ('kOk', -4.0)"


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_where_the_library_has_threads_already_they_are_taken_and_the_answer_is_the_same(threads: int):
    """`run`, unlike `solve`, stays in the thread of its caller, whose number of threads stands."""
    found = []

    def work() -> None:
        found.append(users_own(threads))
        found.append(run(assignment()))
        found.append(users_own(threads))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0] == found[2] == ("kOk", -4.0)
    assert np.array_equal(found[1], solve(assignment()))


def test_no_plan_is_the_specs():
    program = assignment(2)
    program.equal([0, 1], to=2.0)
    with pytest.raises(PlanError) as raised:
        solve(program)
    assert raised.value.problems[0].what == "the solver found no plan (Infeasible, 4 variables)"
    assert "loosen the spec" in raised.value.problems[0].fix


def test_no_time_is_the_solvers():
    with pytest.raises(PlanError) as raised:
        solve(assignment(), seconds=0.0)
    assert raised.value.problems[0].what == "the solver did not finish within 0 s (144 variables)"
    assert "loosen" not in raised.value.problems[0].fix


def test_a_run_that_fails_is_told_as_itself():
    program = assignment()
    program.equal([10**6])  # a variable that there is not
    with pytest.raises(PlanError) as raised:
        solve(program)
    (problem,) = raised.value.problems
    assert problem.what.startswith(f"the solver's run failed: HiGHS {highspy.Highs().version()} returned kError")
    assert problem == broken_solver(highspy.Highs().version(), "kError", problem.what.split("status ")[1][:-16], 144)


def test_what_the_solvers_thread_raises_is_raised_in_the_callers():
    program = assignment()
    program.rows.append(([0], [1.0], "not a number", 1.0))
    with pytest.raises((ValueError, TypeError)):
        solve(program)
