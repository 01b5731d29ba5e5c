"""A whole spec: statements that fit each other, and their canonical text."""

from __future__ import annotations

import attrs

from ..errors import SpecError
from .checks import spec_problems
from .text import spec_text
from .values import Statements


@attrs.frozen(kw_only=True)
class Spec(Statements):
    """How a model's inputs, outputs and modules lie over the mesh, and the policies for it.

    `str` is canonical text that parses to an equal Spec. Raises SpecError at construction with
    every statement that does not fit the others.
    """

    def __attrs_post_init__(self) -> None:
        problems = spec_problems(self)
        if problems:
            raise SpecError(problems)

    def __str__(self) -> str:
        return spec_text(self)
