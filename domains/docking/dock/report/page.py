"""The page itself: template, style, scripts and data put into one file that needs no network and cannot use any."""

import html
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core import __version__
from core.errors import DataError
from core.files import write_text
from core.pages import filled, inert_json, policy_hash
from domains.docking.dock.record import CONFIG, FAILURES, REPORT, RESULT, SUMMARY
from domains.docking.dock.report.contents import (
    complex_contents,
    link,
    read_failures,
    read_results,
    run_facts,
)

ASSETS = Path(__file__).parent / "page"  # 3Dmol-min.js is that of npm's 3dmol 2.5.5, unchanged
SCRIPTS = ("dom.js", "words.js", "table.js", "scene.js", "player.js", "details.js", "main.js")
RUN_FILES = (SUMMARY, FAILURES, CONFIG)
FAILURES_SHOWN = 200  # the others are in failures.csv
LIMIT = 50  # complexes with contents; each takes some 100 kB, every protein some 200 kB


def write_run_report(out: Path, limit: int = LIMIT) -> Path:
    """Write OUT/report.html about all complexes of a run that are finished, and what failed; returns its path.

    Raises DataError where OUT holds neither results nor failures; StorageError.
    """
    folders = sorted(path.parent for path in out.glob(f"*/{RESULT}"))
    if not folders and not (out / FAILURES).is_file():
        raise DataError(f"{out} has no results of docking (no */{RESULT}) and no {FAILURES}: nothing to report")
    return write_report(folders, out / REPORT, limit)


def write_report(folders: Iterable[Path], target: Path, limit: int = LIMIT) -> Path:
    """Write a report about complexes, each a folder with result.json and what that names; returns ``target``.

    Links are relative to the folder of ``target``; the failures are those of failures.csv in that folder. Proteins with
    the same text are embedded once. Of more than ``limit`` complexes, those with the best confidence of rank 1 are
    embedded with poses and 3-D, the others are in the table only, and the page says so. A result.json that cannot be
    read is listed as a failure. Raises DataError where failures.csv is damaged; StorageError.
    """
    base = target.parent
    results, damaged = read_results(folders)
    failures = [*read_failures(base / FAILURES), *damaged]
    receptors: dict[str, int] = {}
    contents = [complex_contents(result.folder, receptors, base) for result in results[:limit]]
    # entry: number of the contents in the page, None where they are left out
    rows = [
        {**result.row, "href": link(result.folder / "poses.sdf", base), "entry": number if number < limit else None}
        for number, result in enumerate(results)
    ]
    index = {
        "version": __version__,
        "facts": run_facts(results),
        "rows": rows,
        "failed": len(failures),
        "failures": failures[:FAILURES_SHOWN],
        "files": [[name, link(base / name, base)] for name in RUN_FILES if (base / name).is_file()],
        "limit": limit,
    }
    data = [_data("index", index)]
    data += [_data(f"receptor-{number}", text) for text, number in receptors.items()]
    data += [_data(f"complex-{number}", content) for number, content in enumerate(contents)]
    write_text(target, _page("\n".join(data)))
    return target


def _page(data: str) -> str:
    viewer = _inert(_asset("3Dmol-min.js"))
    program = _inert("\n".join(_asset(name) for name in SCRIPTS))
    # The browser itself forbids all requests, and all scripts but these two: handlers in injected HTML cannot run.
    policy = (
        f"default-src 'none'; script-src {policy_hash(viewer)} {policy_hash(program)}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "style": _asset("style.css"),
        "licence": html.escape(_asset("3Dmol-LICENSE.txt")),
        "data": data,
        "viewer": viewer,
        "program": program,
    }
    return filled(_asset("page.html"), parts)


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _inert(script: str) -> str:
    """JavaScript that cannot end its element: ``<\\/script`` means the same in strings and regular expressions."""
    return re.sub(r"<(/script|!--)", r"<\\\1", script, flags=re.IGNORECASE)


def _data(name: str, value: Any) -> str:
    return f'<script type="application/json" id="{name}">{inert_json(value)}</script>'
