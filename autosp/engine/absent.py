"""An output that a spec leaves out of training: what stands in its place says so as soon as it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from ..capture import Captured
from ..errors import Problem, SpecError
from ..resources import listing
from ..solve import Ends
from ..spec import Output, Spec
from ..syntax import problem_at


class AbsentOutput(SpecError, AttributeError, TypeError):
    """An output was used that the spec leaves out. Also the errors by which code asks an object what it can do, so
    that what walks through a model's outputs (`hasattr(x, "dtype")`) passes it over."""


class Absent:
    """In the place of an output that is not produced. It may be passed on, stored, compared, copied, pickled and
    printed; any other use raises `AbsentOutput`, which names the spec's line."""

    __slots__ = ("name", "problem")

    def __init__(self, name: str, problem: Problem):
        self.name, self.problem = name, problem

    def __repr__(self) -> str:
        return f"<{self.name}: not produced, {self.problem.where or 'the spec'} leaves it out>"

    def __reduce__(self):
        return Absent, (self.name, self.problem)

    def __getattr__(self, attribute: str) -> NoReturn:
        if attribute.startswith("__"):  # a protocol that Python or a library looks for
            raise AttributeError(attribute)
        self._used()

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None) -> NoReturn:
        raise AbsentOutput(_first((args, kwargs)).problem)

    def _used(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AbsentOutput(self.problem)


def _first(values: Any) -> Any:
    """The first `Absent` among the arguments of a call; None where there is none."""
    if isinstance(values, Absent):
        return values
    if isinstance(values, Mapping):
        values = tuple(values.values())
    for value in values if isinstance(values, (tuple, list)) else ():
        first = _first(value)
        if first is not None:
            return first
    return None


_USES = (
    "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift radd rsub rmul rtruediv rfloordiv rmod rpow "
    "rmatmul rand ror rxor neg pos abs invert lt le gt ge getitem setitem delitem len iter contains call bool int "
    "float complex index array"
)
for _use in _USES.split():
    setattr(Absent, f"__{_use}__", Absent._used)


def with_absent(program: Callable, absent: Mapping[int, Absent]) -> Callable:
    """`program` with what stands for the outputs that it leaves out, by their positions."""
    if not absent:
        return program

    def run(*args):
        return tuple(absent.get(i, out) for i, out in enumerate(program(*args)))

    return run


def left_out(captured: Captured, ends: Ends, statements: Mapping[int, Output | None], spec: Spec) -> dict[int, Absent]:
    """What stands for each tensor of the outputs that is not produced."""
    absent = {}
    for output, mode in zip(captured.outputs, ends.outputs, strict=True):
        stated = statements[output.position]
        if mode == "none" and captured.node_of(output) is not None and stated is not None:
            absent[output.position] = Absent(stated.name, not_produced(stated, spec.family))
    return absent


def not_produced(output: Output, family: str | None) -> Problem:
    """An output was used whose line in the spec is `none`."""
    text = f"str(autosp.load('{family}'))" if family in listing("models") else "the spec's text"
    return problem_at(
        output.at,
        what=f"'{output.name}' is used, and this program does not produce it",
        rule=f"in training with a loss, 'output {output.name} none' leaves it out: no rank ever holds it",
        fix="say 'whole' there (every rank is given all of it) or 'local' (a rank's own part), as in "
        f"autosp.compile(..., spec=re.sub('{output.name} +none', '{output.name} whole', {text})); "
        "under torch.no_grad() it is whole as it is",
    )
