"""A model from its name on the command line; without weights, on the meta device, unless requested with them."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from ..errors import Problem, SpecError, did_you_mean
from . import messages


def transformers() -> Any:
    """The package, imported only where a model of its is named. Raises SpecError where it is missing."""
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise SpecError(Problem(*messages.no_transformers())) from None


def from_factory(name: str) -> torch.nn.Module:
    """The model that `pkg.mod:factory` returns. Modules in the working folder are found too."""
    module, _, factory = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        make = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError) as error:
        raise SpecError(Problem(*messages.no_factory(name, str(error)))) from None
    return make()


def from_class(name: str) -> torch.nn.Module:
    """A transformers class with its default configuration."""
    library = transformers()
    model_class: Any = getattr(library, name, None)
    if getattr(model_class, "config_class", None) is None:
        classes = [n for n in dir(library) if n.endswith(("LMHeadModel", "ForCausalLM", "ForMaskedLM"))]
        raise SpecError(Problem(*messages.no_model(name, did_you_mean(name, classes, messages.MODEL_FIX))))
    return model_class(model_class.config_class())


def from_config(path: Path) -> torch.nn.Module:
    """The class that a config.json names as its architecture, with that configuration."""
    library = transformers()
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        config = library.AutoConfig.for_model(fields.pop("model_type"), **fields)
        name = fields["architectures"][0]
    except (OSError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise SpecError(Problem(*messages.bad_config(str(path), f"{type(error).__name__}: {error}"))) from None
    if not hasattr(library, name):
        raise SpecError(Problem(*messages.no_model(name, messages.MODEL_FIX)))
    return getattr(library, name)(config)


def build_model(name: str, device: str = "meta") -> torch.nn.Module:
    """The model that `name` means: a config.json, a transformers class, or `pkg.mod:factory`.

    Raises SpecError where there is none.
    """
    with torch.device(device):
        if name.endswith(".json"):
            return from_config(Path(name))
        return from_factory(name) if ":" in name else from_class(name)
