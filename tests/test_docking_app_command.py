"""disco app: the command, from the model to the end of the server."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.errors import CheckpointError, ConfigError, RequestError
from domains.docking.dock.app import cli, serve
from tests.app_support import LIGAND, PATIENCE, Server, tiny_pipeline
from tests.support import ROOT


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _keep_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command would take the log away from the tests."""
    monkeypatch.setattr(cli, "start_logging", lambda quiet: None)


class Idle:
    """A server that ends at once; it notes what was in the temporary folder while it ran."""

    def __init__(self, temporary: Path) -> None:
        self.temporary, self.seen = temporary, 0

    def run(self, sockets: Any) -> None:
        self.seen = len(list(self.temporary.glob("disco-app-*")))


def test_the_command_warns_where_others_get_in_and_takes_only_its_own_folder_away(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    idle = Idle(tmp_path)
    opened: list[str] = []
    monkeypatch.setattr(serve.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(serve, "make_server", lambda app: idle)
    monkeypatch.setattr(serve.webbrowser, "open", opened.append)
    cli.app(model=str(model), port=0, device="cpu", open_browser=True)
    assert idle.seen == 1
    assert not list(tmp_path.glob("disco-app-*"))
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", opened[0])
    assert "reaches this machine" not in caplog.text
    cli.app(model=str(model), host="0.0.0.0", port=0, device="cpu", workdir=tmp_path / "kept" / "work")
    assert "whoever reaches this machine can dock on it" in caplog.text
    assert (tmp_path / "kept" / "work").is_dir()
    assert idle.seen == 0


def test_the_command_says_what_it_lacks(
    model: Path, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        serve.listening("127.0.0.1", 0) as taken,
        pytest.raises(RequestError, match="choose another with --host, --port"),
    ):
        cli.app(model=str(model), port=taken.getsockname()[1], device="cpu")
    with pytest.raises(RequestError, match=r"cannot serve 203\.0\.113\.7"):
        cli.app(model=str(model), host="203.0.113.7", device="cpu")
    with pytest.raises(CheckpointError, match="a model of 'toy', not of docking"):
        cli.app(model=str(trained("toy")), port=0, device="cpu")
    with pytest.raises(CheckpointError):
        cli.app(model=str(tmp_path), port=0)
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "python_multipart" else name)
    with pytest.raises(ConfigError, match=r"'python_multipart': pip install 'disco-diff\[app\]'"):
        cli.app(model=str(model), port=0)


def test_a_stop_signal_ends_the_server_and_takes_its_files_away(model: Path, tmp_path: Path) -> None:
    script = (
        "import pathlib, sys; from domains.docking.dock.app import cli; cli.app([], pathlib.Path(sys.argv[1]), port=0)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(model)], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "docking page" in line)
        server = Server(int(re.findall(r":(\d+)/", line)[0]), tmp_path)
        id_ = server.dock({"ligand": LIGAND, "poses": "4", "steps": "100"})
        server.wait(id_, "running")
        assert len(list(tmp_path.glob("disco-app-*"))) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert not list(tmp_path.iterdir())
    finally:
        process.kill()
        process.wait()
