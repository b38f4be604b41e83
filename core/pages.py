"""What pages are made of that open without a network and let nothing that is put in act."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any


def filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with every ``{{name}}`` replaced, in one pass: what is put in is not looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def policy_hash(text: str) -> str:
    """How a Content-Security-Policy names one inline script or style: by its SHA-256."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def inert_json(value: Any) -> str:
    """JSON for an element that never runs; without ``<`` nothing in it can end that element. Raises ValueError for
    numbers that are not finite."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
