"""The integer program: one strategy per operator, a transport of placements over every edge.

x[op, strategy] in {0, 1}, one strategy per operator. Over an edge from value v to user u,
z[s, t] carries the placement s that v is given in to the placement t that u needs; y[v, s, t]
pays for a reshard once however many users share it. This is the layout-assignment program of
Alpa (Zheng et al., OSDI 2022, section 4.2) with its products of decisions written as transports,
whose relaxation is integral in nearly every graph we saw.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import attrs
import highspy
import numpy as np

from ..errors import PlanError
from ..errors import Problem as Fault
from ..sharding import Placement

# HiGHS' tolerances are absolute: costs are given to it in units in which they are far above them.
SCALE = 1e8
SECONDS = 60.0
OPTIONS = {"output_flag": False, "random_seed": 0, "mip_rel_gap": 0.0, "mip_abs_gap": 1e-4}


class SolverError(PlanError):
    """The solver ended without an answer: whether there is a plan is not known."""


@attrs.define
class IntegerProgram:
    """Variables and rows, collected in a fixed order."""

    costs: list[float] = attrs.Factory(list)
    integer: list[bool] = attrs.Factory(list)
    rows: list[tuple[list[int], list[float], float, float]] = attrs.Factory(list)

    def variable(self, cost: float = 0.0, integer: bool = False) -> int:
        self.costs.append(cost)
        self.integer.append(integer)
        return len(self.costs) - 1

    def equal(self, plus: list[int], minus: Sequence[int] = (), to: float = 0.0) -> None:
        """sum(plus) - sum(minus) == to"""
        self.rows.append(([*plus, *minus], [1.0] * len(plus) + [-1.0] * len(minus), to, to))

    def at_least(self, big: int, small: int) -> None:
        """big - small >= 0"""
        self.covers([big], [small])

    def covers(self, big: list[int], small: Sequence[int] = (), by: float = 0.0) -> None:
        """sum(big) - sum(small) >= by"""
        self.rows.append(([*big, *small], [1.0] * len(big) + [-1.0] * len(small), by, highspy.kHighsInf))


@attrs.frozen
class Edge:
    """A use of a value: where it comes in (`give`: placement to variables), what it must be in
    (`need`), the cost of each change, and whether a reshard may stand on it at all."""

    value: int
    give: dict[Placement, list[int]]
    need: dict[Placement, list[int]]
    cost: dict[tuple[Placement, Placement], float]
    closed: bool


def add_edges(program: IntegerProgram, edges: list[Edge]) -> None:
    """Transports of every edge, with the reshards of one value to one target shared."""
    pairs: dict[tuple, int] = {}
    for e in edges:
        if not e.closed:
            for pair in e.cost:
                pairs[e.value, pair] = pairs.get((e.value, pair), 0) + 1
    shared: dict[tuple, int] = {}
    for e in edges:
        if e.closed:
            for t in dict.fromkeys([*e.give, *e.need]):
                program.equal(e.give.get(t, []), e.need.get(t, []))
            continue
        z: dict[tuple, int] = {}
        for pair, cost in e.cost.items():
            alone = pairs[e.value, pair] == 1
            z[pair] = program.variable(cost if alone else 0.0)
            if cost > 0 and not alone:
                y = shared.setdefault((e.value, pair), -1)
                if y < 0:
                    y = shared[e.value, pair] = program.variable(cost)
                program.at_least(y, z[pair])
        for s, variables in e.give.items():
            program.equal([z[p] for p in e.cost if p[0] == s], variables)
        for t, variables in e.need.items():
            program.equal([z[p] for p in e.cost if p[1] == t], variables)


def solve(program: IntegerProgram, seconds: float = SECONDS) -> np.ndarray:
    """The optimal values of all variables. Raises PlanError where none exist, or none was found in `seconds`.

    HiGHS keeps its threads by the thread that calls it, as many as the first run there requested, and refuses another
    number. A thread of our own knows nothing of the caller's, and takes what it made along when it ends.
    """
    outcome: list[np.ndarray | BaseException] = []

    def work() -> None:
        try:
            outcome.append(run(program, seconds))
        except BaseException as e:  # raised again below, in the caller's thread
            outcome.append(e)

    thread = threading.Thread(target=work, name="autosp-solver", daemon=True)
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


class _Quiet(highspy.Highs):
    """The solver without its callbacks: to register them prints a banner (1.16), before any option can be set."""

    def enableCallbacks(self) -> None:  # the library's name
        pass


def run(program: IntegerProgram, seconds: float = SECONDS) -> np.ndarray:
    """`solve` in the caller's own thread: on one thread, or on as many as HiGHS has there already."""
    model = _model(program)
    for threads in (1, 0):
        h = _Quiet()
        for name, value in (*OPTIONS.items(), ("threads", threads), ("time_limit", seconds)):
            h.setOptionValue(name, value)
        taken = h.passModel(model)
        ran = h.run() if taken != highspy.HighsStatus.kError else taken
        status = h.getModelStatus()
        if ran != highspy.HighsStatus.kError:
            break
    if status == highspy.HighsModelStatus.kOptimal:
        return np.array(h.getSolution().col_value)
    status_text, variables = h.modelStatusToString(status), len(program.costs)
    if status in (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible):
        raise PlanError(infeasible(status_text, variables))
    if status == highspy.HighsModelStatus.kTimeLimit:
        raise SolverError(out_of_time(variables, seconds))
    raise SolverError(broken_solver(h.version(), ran.name, status_text, variables))


def _model(program: IntegerProgram) -> highspy.HighsLp:
    lp = highspy.HighsLp()
    n, m = len(program.costs), len(program.rows)
    lp.num_col_, lp.num_row_ = n, m
    lp.col_cost_ = np.array(program.costs) * SCALE
    lp.col_lower_, lp.col_upper_ = np.zeros(n), np.ones(n)
    lp.row_lower_ = np.array([r[2] for r in program.rows])
    lp.row_upper_ = np.array([r[3] for r in program.rows])
    lengths = np.array([len(r[0]) for r in program.rows], dtype=np.int32)
    lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    lp.a_matrix_.start_ = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    lp.a_matrix_.index_ = np.array([i for r in program.rows for i in r[0]], dtype=np.int32)
    lp.a_matrix_.value_ = np.array([v for r in program.rows for v in r[1]], dtype=np.float64)
    kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
    lp.integrality_ = [kinds[i] for i in program.integer]
    return lp


def infeasible(status: str, variables: int) -> Fault:
    """No choice of strategies satisfies the spec."""
    return Fault(
        what=f"the solver found no plan ({status}, {variables} variables)",
        rule="every operator runs by one of its strategies, and every value can be brought to what its users need",
        fix="loosen the spec's constraints and outputs; `autosp rules explain OP` shows what each operator allows",
        where="solve",
    )


def out_of_time(variables: int, seconds: float) -> Fault:
    """The solver stopped before it had the best plan."""
    return Fault(
        what=f"the solver did not finish within {seconds:g} s ({variables} variables)",
        rule="a plan is the optimum, so that every rank finds the same one; what a limit of time leaves is not",
        fix="compile where the processor is less busy, or state a layout or two (`constrain`): a smaller choice is "
        "solved sooner",
        where="solve",
    )


def foreign_answer(given: int, operators: int) -> Fault:
    """An answer that was found elsewhere is one to another program."""
    return Fault(
        what=f"an answer of {given} choices, found by another rank or an earlier run, names strategies that this program "
        f"of {operators} operators does not have",
        rule="an answer names, for each operator of the program that it was found for, one of its strategies",
        fix="give every rank the same rules and package versions; with plan=, leave it out and save the plan again",
        where="solve",
    )


def broken_solver(version: str, ran: str, status: str, variables: int) -> Fault:
    """The solver itself failed: the spec has no part in it."""
    return Fault(
        what=f"the solver's run failed: HiGHS {version} returned {ran}, model status {status} ({variables} variables)",
        rule="a plan comes from a run of HiGHS that ends with an optimum; here the solver failed, not the spec",
        fix="install another version of the solver, such as highspy 1.15.1, and compile again",
        where="solve",
    )
