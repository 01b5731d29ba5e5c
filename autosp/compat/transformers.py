"""What autosp uses of transformers beyond its public names; nothing here imports it."""

from __future__ import annotations

import sys
from typing import Any


def install_hooks(module: Any) -> None:
    """Installs the hooks with which a model, or one inside it, captures its outputs. Else it would at its first call,
    under a lock that breaks Dynamo's graph. Nothing to do for models and releases that have none."""
    capturing = sys.modules.get("transformers.utils.output_capturing")
    if hasattr(capturing, "maybe_install_capturing_hooks"):
        for part in module.modules():
            if hasattr(part, "_can_record_outputs"):
                capturing.maybe_install_capturing_hooks(part)
