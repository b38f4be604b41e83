"""The documentation is true: its code runs, its links lead somewhere, its commands exist."""

import re
from pathlib import Path

import pytest
import torch
import typer

from core import registry
from core.cli import app
from core.pipeline import Pipeline
from core.registry import get_domain
from tests.support import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "experiments/README.md",
]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_new_domain_page_makes_a_working_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    source = "\n".join(blocks(ROOT / "docs" / "new-domain.md", "python"))
    assert len(source.splitlines()) < 200
    page: dict[str, object] = {}
    exec(compile(source, "docs/new-domain.md", "exec"), page)
    assert get_domain("clouds") is page["CloudDomain"]
    pipeline = page["pipeline"]
    assert isinstance(pipeline, Pipeline)
    four = pipeline.generate(count=4, steps=4).state["points"]
    one = pipeline.generate(count=1, first=2, steps=4).state["points"]
    torch.testing.assert_close(one[0], four[2], rtol=1e-4, atol=1e-5)
    assert pipeline.domain.evaluate(pipeline.domain.dataset("train").fields, None)["fd_radii"] < 1e-3  # type: ignore[arg-type]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    commands = set(group.list_commands(typer.Context(group)))  # type: ignore[attr-defined]
    assert set(re.findall(r"^\s*(?:\$ )?disco ([a-z]+)", text, re.MULTILINE)) <= commands
    yaml_files = set(re.findall(r"\bexperiments/[\w/-]+\.yaml\b", text))
    assert [name for name in yaml_files if not (ROOT / name).exists()] == []
