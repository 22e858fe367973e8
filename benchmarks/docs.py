"""Writes the benchmarks of the documentation from the committed results; none is typed by hand.

``python benchmarks/docs.py`` rewrites what is between the marks of the pages in ``docs/``; with
``--check`` it exits with 1 if a page is not what the results say.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pages import rewrite
from readme import RESULTS, command, load, mebibytes, milliseconds, ratio, row_of

DOCS = Path(__file__).parents[1] / "docs"
MARK = re.compile(
    r"(?P<begin><!-- benchmark: (?P<loss>\w+), written by benchmarks/docs.py -->\n)"
    r".*?(?P<end><!-- /benchmark -->)",
    re.DOTALL,
)

HEADER = """\
| size | contender | time | faster by | peak memory | error of the loss | of the gradient |
|---|---|---:|---:|---:|---:|---:|"""


def error(value: float | None) -> str:
    """A relative error."""
    return "-" if value is None else f"{value:.1e}"


def size_of(row: dict[str, Any]) -> tuple[int, int]:
    """Rows and width of a result."""
    return row["rows"], row["dim"]


def benchmark_rows(document: dict[str, Any]) -> Iterator[str]:
    """A line of the table for each contender that ran, at each size."""
    for row in document["rows"]:
        if row["status"] != "ok":
            continue
        ours = row_of(document, size_of(row), "sslkern")
        own = row is ours
        cells = [
            "{} x {}".format(*size_of(row)),
            f"**{row['contender']}**" if own else row["contender"],
            milliseconds(row),
            "-" if own else ratio(row, ours),
            mebibytes(row),
            error(row["loss_relative_error"]),
            error(row["grad_relative_l2_error"]),
        ]
        yield f"| {' | '.join(cells)} |"


def benchmark(loss: str) -> str:
    """Tables of the committed results of a loss, half types last, with their commands."""
    parts = []
    found = sorted(path.stem for path in RESULTS.glob(f"{loss}-*.json"))
    for name in sorted(found, key=lambda name: "float16" in name):
        document = load(name)
        environment = document["environment"]
        kind = document["rows"][0]["dtype"]
        isa = environment["instruction_set"].upper().replace("AVX512", "AVX-512")
        parts += [
            f"{kind}, {isa}, {environment['cpu']}, {environment['threads']} threads, torch "
            f"{environment['torch']}:",
            "",
            HEADER,
            *benchmark_rows(document),
            "",
            f"`{command(document)}`",
            "",
        ]
        if (RESULTS / f"{name}.png").exists():
            parts += [f"![Plot of the same numbers](../plots/{name}.png)", ""]
    return "\n".join(parts)


def with_parts(text: str) -> str:
    """A page with its written parts."""
    return MARK.sub(lambda m: m["begin"] + benchmark(m["loss"]) + m["end"], text)


def main() -> int:
    """Rewrite or check the pages."""
    return rewrite(sorted(DOCS.rglob("*.md")), with_parts)


if __name__ == "__main__":
    sys.exit(main())
