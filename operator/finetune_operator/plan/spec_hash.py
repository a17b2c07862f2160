"""Which training a spec asks for: a hash over everything except what may change while it runs.

It tells a changed spec after the end (train anew) from a changed label (do nothing), and marks the Jobs of each
training, so that those of an earlier one are never taken for the current.
"""

import hashlib
import json
from typing import Any

from finetune_api.resolve import MUTABLE_KEYS  # CEL refuses other changes while an attempt lives (decisions.md 2)


def spec_hash(spec: dict[str, Any]) -> str:
    """12 hex digits, the same for any order of keys. Null and absent are the same thing."""
    fixed = {key: value for key, value in spec.items() if key not in MUTABLE_KEYS}
    text = json.dumps(_without_nulls(fixed), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
