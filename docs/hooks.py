"""What pages take from elsewhere: sections of the README, plots of results, names, help.

A line ``<!-- section: FILE: HEADING -->`` in a page stands for the text under that heading of that
file, ``<!-- help: COMMAND -->`` for what ``python -m sslkern COMMAND --help`` prints,
``<!-- names: MODULE -->`` for a table of what the module has in public.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PLOTS = ROOT / "benchmarks" / "results"

_SECTION = re.compile(r"^<!-- section: (\S+): (.+?) -->$", re.MULTILINE)
_HELP = re.compile(r"^<!-- help: (\w+) -->$", re.MULTILINE)
_NAMES = re.compile(r"^<!-- names: (\S+) -->$", re.MULTILINE)
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


def help_of(command: str) -> str:
    """What a command says of itself, as a block."""
    done = subprocess.run(
        [sys.executable, "-m", "sslkern", command, "--help"],
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return f"```text\n{done.stdout.strip()}\n```"


def names(module: str) -> str:
    """A table of the public names of a module, with the first sentence of each."""
    found = importlib.import_module(module)
    lines = ["| name | what it is |", "|---|---|"]
    for name in sorted(found.__all__, key=str.lower):
        value = getattr(found, name)
        data = isinstance(value, str | dict)  # whose docstring is that of the type
        first = "" if data else (value.__doc__ or "").strip().split("\n\n")[0]
        link = f"`{name}`" if name.startswith("_") else f"[`{name}`][{module}.{name}]"
        lines.append(f"| {link} | {' '.join(first.split())} |")
    return "\n".join(lines)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what a page names."""
    markdown = _NAMES.sub(lambda match: names(match[1]), markdown)
    markdown = _HELP.sub(lambda match: help_of(match[1]), markdown)
    return _SECTION.sub(lambda match: section(match[1], match[2]), markdown)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the plots, as ``plots/NAME.png`` and ``plots/peers/NAME.png``."""
    for plot in sorted(PLOTS.glob("*.png")):
        files.append(File.generated(config, f"plots/{plot.name}", abs_src_path=str(plot)))
    for plot in sorted((PLOTS / "peers").glob("*.png")):
        files.append(File.generated(config, f"plots/peers/{plot.name}", abs_src_path=str(plot)))
    return files
