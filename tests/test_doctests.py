"""The examples in docstrings run, and every public name has arguments, returns and raises in its own."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import autosp
import autosp.engine

PACKAGE = Path(__file__).parents[1] / "autosp"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
EXAMPLES = sorted(path for path in PACKAGE.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))
FUNCTIONS = {
    **{name: value for name in autosp.__all__ if inspect.isfunction(value := getattr(autosp, name))},
    "deepspeed.prepare_autosp_inputs": autosp.deepspeed.prepare_autosp_inputs,
    "engine.sampler": autosp.engine.sampler,
    "rules.rule": autosp.rules.rule,
}


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


@pytest.mark.parametrize("path", EXAMPLES, ids=module_of)
def test_the_examples_of_a_module_run(path: Path):
    found = doctest.testmod(importlib.import_module(module_of(path)), optionflags=FLAGS)
    assert found.attempted and not found.failed


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_says_what_it_takes_gives_and_raises(name: str):
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    parts = [part for part in ("Args:", "Returns:", "Raises:", "Example:") if part in text]
    assert parts == ["Args:", "Returns:", "Raises:", "Example:"]
    described = text[text.index("Args:") : text.index("Returns:")]
    assert [p for p in inspect.signature(FUNCTIONS[name]).parameters if p not in described] == []


def test_every_public_error_says_when_it_is_raised():
    errors = [value for name in autosp.__all__ if inspect.isclass(value := getattr(autosp, name))]
    assert len(errors) == 10 and all(inspect.getdoc(error) for error in errors)
