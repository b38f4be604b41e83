"""Every test runs with the tensor shapes of all signatures checked, on one thread."""

from jaxtyping import install_import_hook

install_import_hook(["core", "domains"], "beartype.beartype")

import os  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

from core.config import RunConfig  # noqa: E402
from tests.support import tiny_config  # noqa: E402

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Run folder of a tiny trained model by the name that ``tiny_config`` takes; trained once per session."""
    from core.training.run import train

    folders: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            train(tiny_config(name), folders[name], quiet=True)
        return folders[name]

    return get


@pytest.fixture
def toy_config() -> RunConfig:
    return tiny_config("toy")
