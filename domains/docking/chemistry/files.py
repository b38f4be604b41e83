"""What protein and ligand files have in common: names, and content that is neither."""

import re
from pathlib import Path

from core.errors import RequestError

SNIFFED_BYTES = 1 << 16
PLAIN_NAMES = ("protein", "receptor", "ligand")
PACKED = (b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd", b"\x1f\x9d", b"Rar!")


def file_stem(path: str | Path) -> str:
    """Name of a file without its ending and ``.gz``; that of its folder where the file is just called ``protein``,
    ``receptor`` or ``ligand``, because such files differ by their folders (6w70/protein.pdb)."""
    path = Path(path)
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    stem = Path(name).stem or path.name
    return path.absolute().parent.name or stem if stem.lower() in PLAIN_NAMES else stem


def check_content(content: bytes, path: Path, wanted: str) -> None:
    """Raises RequestError where the (unpacked) content of a file, or its beginning, is no text or plainly another kind
    of text; ``wanted`` says what it should be ("a molecule")."""
    head = content[:SNIFFED_BYTES]
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().decode("latin-1")
    wrong = ""
    if not content.strip():
        wrong = "is empty"
    elif re.match(r"<(!doctype|html|\?xml|head|body|[a-z:]+>)", start, re.IGNORECASE):
        wrong = f"is an HTML or XML page (a failed download?), not {wanted}"
    elif head.startswith(PACKED) or head[257:262] == b"ustar":
        wrong = "is an archive; unpack it first (only gzip is read as it is)"
    elif b"\0" in head:
        wrong = f"is a binary file, not {wanted}"
    elif re.match(r'\{\s*"', start):
        wrong = f"is a JSON file, not {wanted}"
    if wrong:
        raise RequestError(f"{path}: {wrong}")
