"""A page of text, tables and pictures in one HTML file that opens without a network."""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.files import write_text

STYLE = """
:root { --ink: #1c2430; --soft: #5c6773; --line: #dde3ea; --tint: #f4f7fa; --mark: #0b63c5; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff; font: 16px/1.55 system-ui, "Segoe UI", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .5rem; padding-top: 1.2rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .3rem; }
p { max-width: 46rem; margin: .5rem 0; }
.lead { font-size: 1.1rem; color: var(--soft); }
nav a { color: var(--mark); text-decoration: none; margin-right: 1.2rem; }
figure { margin: 1rem 0; }
figure img { max-width: 100%; display: block; }
figure.pixels img { image-rendering: pixelated; border: 1px solid var(--line); }
figcaption { color: var(--soft); font-size: .9rem; max-width: 46rem; margin-top: .35rem; }
.row { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.row > figure { flex: 1 1 17rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .55rem; font-size: .92rem; text-align: right; white-space: nowrap; }
th, td { border-bottom: 1px solid var(--line); }
th { background: var(--tint); font-weight: 600; white-space: normal; vertical-align: bottom; }
th.group { text-align: center; }
th:first-child, td:first-child { text-align: left; padding-left: .5rem; }
tr.reference td { color: var(--soft); }
.note { background: var(--tint); border-left: 3px solid var(--mark); padding: .6rem .9rem; max-width: 46rem; }
code, pre { font: .88rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
pre { background: var(--tint); padding: .8rem 1rem; overflow-x: auto; border-radius: 4px; }
footer { margin-top: 3rem; color: var(--soft); font-size: .9rem; }
"""


def paragraph(text: str, kind: str = "") -> str:
    """``text`` may hold inline HTML."""
    return f'<p class="{kind}">{text}</p>' if kind else f"<p>{text}</p>"


def heading(text: str, anchor: str = "", level: int = 2) -> str:
    return f'<h{level} id="{anchor}">{html.escape(text)}</h{level}>'


def code(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


def picture(path: Path, caption: str, pixels: bool = False) -> str:
    """A PNG file, taken into the page; ``pixels``: enlarge without smoothing."""
    data = base64.b64encode(path.read_bytes()).decode()
    kind = ' class="pixels"' if pixels else ""
    source = f"data:image/png;base64,{data}"
    alt = html.escape(caption.partition(".")[0], quote=True)
    return f'<figure{kind}><img src="{source}" alt="{alt}"><figcaption>{caption}</figcaption></figure>'


def side_by_side(figures: Sequence[str]) -> str:
    return f'<div class="row">{"".join(figures)}</div>'


def table(
    columns: Sequence[str],
    rows: Mapping[str, Sequence[str]],
    references: Sequence[str] = (),
    groups: Sequence[tuple[str, int]] = (),
) -> str:
    """Rows by name; rows named in ``references`` are shown as such. groups: titles over so many columns each."""
    over = "".join(f'<th class="group" colspan="{width}">{title}</th>' for title, width in groups)
    head = (f"<tr>{over}</tr>" if groups else "") + "<tr>" + "".join(f"<th>{c}</th>" for c in columns) + "</tr>"
    body = ""
    for name, cells in rows.items():
        kind = ' class="reference"' if name in references else ""
        body += f"<tr{kind}><td>{html.escape(name)}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return f'<div class="scroll"><table>{head}{body}</table></div>'


def write_page(title: str, parts: Sequence[str], path: Path) -> Path:
    """The whole page."""
    body = "\n".join(parts)
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>\n{body}\n</main></body></html>\n",
    )
    return path
