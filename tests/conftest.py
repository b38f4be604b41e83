"""Every test runs with the tensor shapes of all signatures checked, on one thread."""

from jaxtyping import install_import_hook

install_import_hook(["core", "domains"], "beartype.beartype")

import atexit  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import tarfile  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

from core.config import RunConfig  # noqa: E402
from tests.support import SHARED_DATA, tiny_config  # noqa: E402

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
if "DISCO_CACHE" not in os.environ:  # nothing of a test may stay in the user's home
    os.environ["DISCO_CACHE"] = tempfile.mkdtemp(prefix="disco-cache-")
    atexit.register(shutil.rmtree, os.environ["DISCO_CACHE"], ignore_errors=True)


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


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file of this name and content into the test's folder."""

    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


@pytest.fixture(scope="session")
def complexes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of real complexes, NAME/{protein.pdb,ligand.sdf}."""
    archive = SHARED_DATA / "docking" / "test.tar.xz"
    if not archive.exists():
        pytest.skip(f"no complexes in {archive}")
    folder = tmp_path_factory.mktemp("complexes")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / "test"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoints as in the authors' work folder: one file per network, each in a place of its own."""
    folder = tmp_path_factory.mktemp("published")
    for name in (
        "weights_disco_score",
        "weights_disco_encoder",
        "weights_ar",
        "weights_confidence",
        "score_norm_tables",
    ):
        (folder / name).mkdir()
        shutil.copy(SHARED_DATA / "golden" / "docking" / f"{name}.pt", folder / name)
    return folder
