"""What a check of ``carpool doctor`` found.

Owns that shape. It must not know what is checked, nor how it is shown.
"""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["ok", "warning", "failed", "skipped"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found."""

    name: str
    state: State
    found: str
    advice: str = ""
    """What to do; empty where nothing is to be done."""
