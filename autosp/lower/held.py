"""A buffer as it was when the forward began, for a forward that writes to it.

The write is the last thing that a forward does; the backward comes after it. What the backward computes again from the
buffer itself would start from the new value, so the graph reads a copy, which no compiler makes twice.
"""

from __future__ import annotations

import torch

LIBRARY = torch.library.Library("autosp_local", "FRAGMENT")
LIBRARY.define("held(Tensor x) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
LIBRARY.impl("held", lambda x: x.clone(), "CompositeExplicitAutograd")
HELD = torch.ops.autosp_local.held.default
