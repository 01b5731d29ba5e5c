"""A sharded program against the unsharded one: all ranks of an axis in one process."""

from .simulate import Simulation, run_ranks, simulate

__all__ = ["Simulation", "run_ranks", "simulate"]
