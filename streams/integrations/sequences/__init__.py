"""Event sequences as streams: a published data set, and a generator whose likelihood is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCENARIOS: Mapping[str, Mapping[str, Any]] = {
    "taobao": {"kind": "taobao"},
    "drifting-hawkes": {"kind": "hawkes"},
    "recurring-hawkes": {"kind": "hawkes", "concepts": 2},
}
"""The scenarios of event sequences by their names in a bench."""
