"""What pages take from files beside them: sections of the README, plots of committed results.

A line ``<!-- section: FILE: HEADING -->`` in a page stands for the text under that heading of that
file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PLOTS = ROOT / "benchmarks" / "results"

_SECTION = re.compile(r"^<!-- section: (\S+): (.+?) -->$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?://|#)[^)]+\)")


def section(file: str, heading: str) -> str:
    """Text under a heading, until the next of its level or above; without links to files.

    Raises:
        PluginError: If there is no such heading: the site is not built.
    """
    text = (ROOT / file).read_text()
    found = re.search(rf"^(#+) {re.escape(heading)}\n", text, re.MULTILINE)
    if found is None:
        raise PluginError(f"{file} has no heading {heading!r}, which a page includes")
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", _without_code(rest), re.MULTILINE)
    return _LINK.sub(r"\1", rest[: end.start() if end else None]).strip()


def _without_code(text: str) -> str:
    """The text with as many letters, but no ``#`` in its blocks of code."""
    return re.sub(
        r"^```.*?^```",
        lambda match: match[0].replace("#", " "),
        text,
        flags=re.DOTALL | re.MULTILINE,
    )


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the sections in that a page names."""
    return _SECTION.sub(lambda match: section(match[1], match[2]), markdown)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the plots, as ``plots/NAME.png``."""
    for plot in sorted(PLOTS.glob("*.png")):
        files.append(File.generated(config, f"plots/{plot.name}", abs_src_path=str(plot)))
    return files
