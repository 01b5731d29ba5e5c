"""The card: its description among the shipped ones, and what runs on it."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import attrs
import torch

from autosp.solve import Device, load_device

LIBRARIES = ("torch", "triton", "transformers", "deepspeed", "highspy", "numpy")
FILES = {"H200": "h200", "H100": "h100-80gb", "A100": "a100-80gb"}


def device_of(place: str) -> Device:
    """The shipped description of this card; that of the nearest where it has none."""
    if place == "cpu":
        return load_device("cpu")
    name = torch.cuda.get_device_name()
    return load_device(next((file for word, file in FILES.items() if word in name), "h100-80gb"))


def with_memory(device: Device, place: str) -> Device:
    """The description, with the memory that the driver says."""
    return attrs.evolve(device, memory=torch.cuda.mem_get_info()[1]) if place == "cuda" else device


def about(place: str) -> dict[str, Any]:
    """The card and the releases, as plain values."""
    card = platform.processor() or platform.machine()
    if place == "cuda":
        p = torch.cuda.get_device_properties(0)
        card = f"{p.name}, {p.total_memory / 2**30:.1f} GiB, {p.multi_processor_count} multiprocessors"
    return {
        "place": place,
        "card": card,
        "device": device_of(place).name,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "cuda": torch.version.cuda if place == "cuda" else None,
    }


def version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "missing"
