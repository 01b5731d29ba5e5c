"""A device description: what a second is spent on."""

from __future__ import annotations

import functools

import attrs
import torch

from ..errors import Problem, SpecError, did_you_mean
from ..resources import listing, read

_SHORT = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@attrs.frozen
class Device:
    """peak: FLOP/s by dtype. efficiency: the part of a peak that a kernel reaches. memory: bytes.
    bandwidth: bytes/s of device memory. node: devices per node. inside, across: (bytes/s, s) of a
    link within and between nodes, per direction and device. reserve: bytes of the memory that no
    tensor can have (the driver's context, the communication library's buffers, the allocator's slack).
    host: bytes/s to and from the memory of the host, each way; 0 where that is the device's own."""

    name: str
    peak: dict[str, float] = attrs.field(hash=False)
    efficiency: float
    memory: int
    bandwidth: float
    node: int
    inside: tuple[float, float]
    across: tuple[float, float]
    reserve: int = 0
    host: float = 0.0

    @property
    def usable(self) -> int:
        """Bytes that a program may hold."""
        return self.memory - self.reserve

    def flops(self, dtype: torch.dtype) -> float:
        """FLOP/s that a matmul of this dtype reaches."""
        return self.peak.get(_SHORT.get(dtype, "fp32"), self.peak["fp32"]) * self.efficiency

    def link(self, ranks: int) -> tuple[float, float]:
        """(bytes/s, latency in s) between `ranks` neighbouring devices."""
        return self.inside if ranks <= self.node else self.across


@functools.lru_cache
def load_device(name: str) -> Device:
    """The description `specs/devices/NAME.device`, or of a file. Raises SpecError."""
    if name.endswith(".device"):
        with open(name) as f:
            return parse_device(f.read(), name)
    known = list(listing("devices"))
    if name not in known:
        begins = next((each for each in known if name and each.startswith(name)), None)
        raise SpecError(
            Problem(
                what=f"no device '{name}'",
                rule="a device is a file specs/devices/NAME.device, or a path that ends in .device",
                fix=did_you_mean(begins or name, known, f"one of: {', '.join(sorted(known))}"),
                where="device",
            )
        )
    return parse_device(read("devices", name), f"{name}.device")


def parse_device(text: str, filename: str = "<device>") -> Device:
    """A device from its lines `key value ...`. Raises SpecError for every bad line."""
    fields: dict = {"peak": {}}
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            _line(fields, words)
        except (ValueError, IndexError, KeyError):
            problems.append(_bad_line(filename, number, line))
    required = [k for k, field in attrs.fields_dict(Device).items() if field.default is attrs.NOTHING]
    missing = [k for k in required if k not in {_FIELD.get(f, f) for f in fields}]
    if not fields["peak"].get("fp32"):
        missing.append("peak fp32")
    if missing and not problems:
        problems.append(_missing(filename, missing))
    if problems:
        raise SpecError(problems)
    return Device(**{_FIELD.get(k, k): v for k, v in fields.items()})


_FIELD = {"device": "name", "link inside": "inside", "link across": "across"}


def _line(fields: dict, words: list[str]) -> None:
    match words:
        case ["device", name]:
            fields["device"] = name
        case ["peak", dtype, value]:
            fields["peak"][dtype] = float(value)
        case ["link", ("inside" | "across") as which, rate, latency]:
            fields[f"link {which}"] = (float(rate), float(latency))
        case [("memory" | "reserve") as key, value]:
            fields[key] = int(float(value[:-3]) * _UNITS[value[-3:]])
        case ["node", value]:
            fields["node"] = int(value)
        case [("efficiency" | "bandwidth" | "host") as key, value]:
            fields[key] = float(value)
        case _:
            raise ValueError(words)


def _bad_line(filename: str, number: int, line: str) -> Problem:
    return Problem(
        what=f"not a line of a device description: {line.strip()}",
        rule="a line is device NAME, peak DTYPE FLOP/S, efficiency X, memory SIZE(GiB), reserve SIZE(GiB), "
        "bandwidth BYTES/S, host BYTES/S, node N, or link inside|across BYTES/S SECONDS",
        fix="compare with specs/devices/a100-80gb.device",
        where=f"{filename}:{number}",
    )


def _missing(filename: str, missing: list[str]) -> Problem:
    return Problem(
        what=f"the device description lacks {', '.join(missing)}",
        rule="a device names peak fp32, efficiency, memory, bandwidth, node and both links",
        fix="add the lines; compare with specs/devices/a100-80gb.device",
        where=filename,
    )
