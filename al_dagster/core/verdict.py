"""Whether a rule holds of stored data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """What looking at stored data came to.

    Args:
        passed: the rule holds.
        figures: how many rows were looked at, how many break the rule, and the first of them.
    """

    passed: bool
    figures: Mapping[str, Any] = field(default_factory=dict)
