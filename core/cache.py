"""Where results that can be computed again are kept between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder ``DISCO_CACHE`` names, else ``~/.cache/disco-diff``. It may not exist yet; deleting it is safe."""
    return Path(os.environ.get("DISCO_CACHE") or "~/.cache/disco-diff").expanduser()
