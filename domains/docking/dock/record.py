"""Names of the files of a run, and result.json as it is read back."""

import json
import math
from pathlib import Path
from typing import Any

from core.errors import DataError

SCHEMA = 1
RESULT = "result.json"  # written last: where it is, the complex is finished
PROTEINS, SUMMARY, FAILURES, CONFIG, REPORT = "proteins", "summary.csv", "failures.csv", "config.yaml", "report.html"


def read_record(path: Path) -> dict[str, Any]:
    """result.json of a docked complex, numbers that are not finite as None.

    Raises DataError where it cannot be read or is not what this version writes.
    """

    def finite(text: str) -> float | None:
        value = float(text)
        return value if math.isfinite(value) else None

    try:
        record = json.loads(path.read_text(encoding="utf-8"), parse_float=finite, parse_constant=lambda _: None)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): dock this complex again") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise DataError(f"{path} is not a result of schema {SCHEMA}: dock this complex again with this version")
    poses = record.get("poses")
    if "id" not in record or not isinstance(poses, list) or not all(isinstance(pose, dict) for pose in poses):
        raise DataError(f"{path} has no id or no list of poses: dock this complex again")
    return record
