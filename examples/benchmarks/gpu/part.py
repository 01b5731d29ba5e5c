"""One cell, in a process of its own: `python -m examples.benchmarks.gpu.part MODULE --size JSON --out FILE`."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module")
    parser.add_argument("--size", type=json.loads, default={})
    parser.add_argument("--place", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    def tell(found: dict[str, Any]) -> None:
        """Writes what is found so far: a process that is ended leaves it."""
        args.out.write_text(json.dumps(found, indent=1) + "\n")

    tell(importlib.import_module(args.module).run(args.size, args.place, args.out.with_suffix(""), tell))


if __name__ == "__main__":
    main()
