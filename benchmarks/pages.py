"""Pages with parts that scripts write: rewritten, or with ``--check`` compared."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path


def rewrite(pages: Iterable[Path], written: Callable[[str], str]) -> int:
    """Write what ``written`` makes of each page; with ``--check`` 1 if one would change, else 0."""
    status = 0
    for page in pages:
        text = page.read_text()
        new = written(text)
        if "--check" in sys.argv:
            status |= int(new != text)
        elif new != text:
            page.write_text(new)
    return status
