"""Writes the README's table of methods from the recipes and the committed results of all of them.

``python -m sslkern train --all --quick --out FOLDER`` leaves ``summary.json``, which is committed
as ``benchmarks/results/train/quick.json``. ``python benchmarks/methods.py`` rewrites the table;
with ``--check`` it exits with 1 if the table is not what they say.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import typing
from pathlib import Path
from typing import Any

from pages import rewrite

import sslkern
from sslkern.methods import Method
from sslkern.train.recipes import load_recipe, recipe_names

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "train" / "quick.json"
README = ROOT / "README.md"
MARKS = ("<!-- methods: written by benchmarks/methods.py -->", "<!-- /methods -->")
HEADER = """\
| method | paper | operators | `train --method` | data | evidence, before and after |
|---|---|---|---|---|---|"""


def method_of(name: str) -> type[Method]:
    """The class that a recipe builds."""
    found: type[Method] = typing.get_type_hints(load_recipe(name).build)["return"]
    return found


def papers(method: type[Method]) -> str:
    """Links to what the docstring names as its source."""
    source = (inspect.getdoc(method) or "").partition("Source:")[2]
    urls = re.findall(r"https://[^\s,;)]+", source)
    return ", ".join(f"[{url.rstrip('.').rsplit('/', 1)[1]}]({url.rstrip('.')})" for url in urls)


def operators(method: type[Method]) -> str:
    """The public operators that the class calls, itself or by the parts that it is made of."""
    for base in method.__mro__:
        if base is Method:
            break
        names = _called(Path(inspect.getfile(base)))
        if names:
            return ", ".join(f"`{name}`" for name in sorted(names))
    return "plain torch"


def _called(path: Path) -> set[str]:
    """Names of operators that a module imports, or the shared parts that it imports."""
    text = path.read_text()
    parts = re.findall(r"from sslkern\.methods\.parts\.(\w+) import", text)
    for part in parts:
        text += (ROOT / "sslkern" / "methods" / "parts" / f"{part}.py").read_text()
    names: set[str] = set()
    for imported in re.findall(r"from sslkern\.ops\.[a-z]\w* import (\([^)]*\)|[^\n]*)", text):
        names |= set(re.findall(r"\w+", imported)) & set(sslkern.__all__)
    return names


def row(name: str, results: dict[str, Any]) -> str:
    """One line of the table."""
    recipe, found = load_recipe(name), results.get(name)
    method = method_of(name)
    evidence = "-"
    if found is not None:
        measure = found["evidence"]["measure"]
        before, after = (found["measures"][x][measure] for x in ("untrained", "trained"))
        evidence = f"{measure} {before:.3g}, {after:.3g}"
    cells = (recipe.title, papers(method), operators(method), f"`{name}`", recipe.data[0], evidence)
    return f"| {' | '.join(cells)} |"


def with_table(text: str) -> str:
    """The README with the table of all recipes."""
    results = json.loads(RESULTS.read_text())
    lines = "\n".join([HEADER, *(row(name, results) for name in recipe_names())])
    between = re.compile(f"({re.escape(MARKS[0])}\n).*?(\n{re.escape(MARKS[1])})", re.DOTALL)
    return between.sub(lambda match: match[1] + lines + match[2], text)


def main() -> int:
    """Rewrite or check the README."""
    return rewrite([README], with_table)


if __name__ == "__main__":
    sys.exit(main())
