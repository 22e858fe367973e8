"""Writes what ``bench --peers`` found, from the committed results, into README and documentation.

``python benchmarks/peers.py`` rewrites what is between the marks of README.md and of the pages in
``docs/``; with ``--check`` it exits with 1 if one of them is not what the results say. Without
results there is nothing between the marks.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pages import rewrite
from readme import ROOT, milliseconds

FOLDER = ROOT / "benchmarks" / "results" / "peers"
MARK = re.compile(
    r"(?P<begin><!-- peers: (?P<loss>\w+), written by benchmarks/peers.py -->\n)"
    r".*?(?P<end><!-- /peers -->)",
    re.DOTALL,
)
OURS, NOT_PEERS = "sslkern", ("sslkern", "eager")
FORWARD, BOTH = "forward", "forward + backward"
KINDS = ("float32", "bfloat16")
NAMES = {
    "ntxent": "NT-Xent",
    "info_nce": "InfoNCE, queue of 65536",
    "in_batch": "InfoNCE within the batch",
    "clip": "CLIP",
    "siglip": "SigLIP",
    "supcon": "SupCon",
    "dcl": "DCL",
    "sinkhorn": "Sinkhorn",
    "swav": "SwAV, 2 + 6 crops",
    "cross_correlation": "Barlow Twins",
    "covariance": "VICReg",
    "tico": "TiCo",
    "mmcr": "MMCR, 4 views",
    "wmse": "W-MSE",
    "frossl": "FroSSL",
    "koleo": "KoLeo",
}
"""Losses in the order of the table, and their names there."""

Row = dict[str, Any]
Document = dict[str, Any]


def load(loss: str, kind: str, folder: Path) -> Document | None:
    """The committed result of a loss in a dtype, if there is one."""
    path = folder / f"{loss}-{kind}.json"
    if not path.exists():
        return None
    document: Document = json.loads(path.read_text())
    return document


def rows_of(document: Document, contender: str, passes: str) -> list[Row]:
    """Rows of a contender that ran, from small to large."""
    wanted = ("ok", contender, passes)
    rows = [r for r in document["rows"] if (r["status"], r["contender"], r["passes"]) == wanted]
    return sorted(rows, key=lambda row: row["rows"])


def passes_of(document: Document) -> list[str]:
    """Forward alone, and with the backward pass if the loss has one."""
    found = {row["passes"] for row in document["rows"]}
    return [name for name in (FORWARD, BOTH) if name in found]


def peers_of(document: Document) -> list[str]:
    """Other libraries of which something ran."""
    ran = [row["contender"] for row in document["rows"] if row["status"] == "ok"]
    return [name for name in dict.fromkeys(ran) if name not in NOT_PEERS]


def at(rows: list[Row], size: int) -> Row | None:
    """The row of that many rows of the batch."""
    return next((row for row in rows if row["rows"] == size), None)


def faster(theirs: Row | None, ours: Row | None) -> str:
    """How many times faster ours is: the median over the rounds."""
    if theirs is None or ours is None:
        return "-"
    pairs = zip(theirs["times_s"], ours["times_s"], strict=True)
    return f"{statistics.median(a / b for a, b in pairs):.1f}x"


def size_of_memory(row: Row | None) -> str:
    """Peak memory beyond inputs and gradients, in KiB below 1 MiB."""
    if row is None or row["peak_bytes"] is None:
        return "-"
    kibibytes = row["peak_bytes"] / 2**10
    return f"{kibibytes / 2**10:,.0f} MiB" if kibibytes >= 1024 else f"{kibibytes:.0f} KiB"


def largest(document: Document, contender: str) -> str:
    """Most rows that it survived, in all passes; with a plus if no more were tried."""
    sizes = [{r["rows"] for r in rows_of(document, contender, p)} for p in passes_of(document)]
    survived = max(set.intersection(*sizes), default=0)
    tried = max(row["rows"] for row in document["rows"])
    return f"{survived}+" if survived == tried else str(survived)


def comparison(loss: str, document: Document) -> Iterator[str]:
    """A line of the README's table for each other library, at the largest size it survived."""
    passes = passes_of(document)
    for peer in peers_of(document):
        size = int(largest(document, peer).rstrip("+"))
        theirs = [at(rows_of(document, peer, name), size) for name in (FORWARD, BOTH)]
        ours = [at(rows_of(document, OURS, name), size) for name in (FORWARD, BOTH)]
        last = len(passes) - 1
        cells = [
            NAMES[loss],
            peer,
            largest(document, peer),
            largest(document, OURS),
            *(faster(a, b) for a, b in zip(theirs, ours, strict=True)),
            size_of_memory(ours[last]),
            size_of_memory(theirs[last]),
        ]
        yield f"| {' | '.join(cells)} |"


def machine(document: Document) -> str:
    """Where it ran, within which limits."""
    environment, limits = document["environment"], document["limits"]
    return (
        f"{environment['cpu']}, {environment['threads']} threads, torch {environment['torch']}; "
        f"{limits['memory_gib']:g} GiB and {limits['step_s']:g} s for a step"
    )


def versions(document: Document) -> str:
    """The libraries and their versions."""
    found = document["environment"]["peers"].items()
    return ", ".join(f"{name} {version}" for name, version in found if version)


HEADER = """\
| {kind} | library | its largest N | ours | forward | forward + backward | our memory | its memory |
|---|---|---:|---:|---:|---:|---:|---:|"""


def overview(folder: Path = FOLDER) -> str:
    """The part of the README: a plot, a table for each dtype, the machine, the command."""
    found = {
        kind: [(loss, d) for loss in NAMES if (d := load(loss, kind, folder)) is not None]
        for kind in KINDS
    }
    documents = [document for kind in KINDS for _, document in found[kind]]
    if not documents:
        return ""
    lines = ["## Against other libraries", ""]
    if (folder / "ntxent-float32.png").exists():
        picture = "benchmarks/results/peers/ntxent-float32.png"
        lines += [f"![Time and peak memory of NT-Xent against other libraries]({picture})", ""]
    for kind in KINDS:
        if found[kind]:
            lines += [HEADER.format(kind=kind)]
            lines += [line for loss, document in found[kind] for line in comparison(loss, document)]
            lines.append("")
    commands = dict.fromkeys(document["environment"]["command"] for document in documents)
    lines += [
        "Batches grow fourfold until a contender needs more memory or time than a step may have, "
        'each in a process of its own; "+": no larger one was tried. How many times faster ours '
        "is, and both peaks of memory beyond inputs and gradients (with the backward pass, if "
        "there is one), are at the library's largest N. Given bfloat16, the libraries' products "
        "of matrices are rounded to bfloat16, for which processors have instructions; ours are "
        "computed and kept in float32, which takes longer where they are all there is to do. "
        "TiCo, MMCR, W-MSE, FroSSL and KoLeo are composed of PyTorch's own operations here, too. "
        f"{machine(documents[0])}. "
        f"{versions(documents[0])}. Command (raw times in `benchmarks/results/peers/`):",
        "",
        "```",
        *commands,
        "```",
        "",
    ]
    return "\n".join(lines)


def cell(document: Document, contender: str, passes: str, size: int) -> str:
    """Time and memory, or why the contender's line ended here."""
    row = at(rows_of(document, contender, passes), size)
    if row is not None:
        return f"{milliseconds(row)}, {size_of_memory(row)}"
    for row in document["rows"]:
        if (row["contender"], row["rows"], row["passes"]) == (contender, size, passes):
            return str(row["reason"]).replace("|", "/")
    return "-"


def sizes_table(document: Document, passes: str) -> Iterator[str]:
    """A line for each size, a column for each contender, also for one that could not begin."""
    taking_part = [r["contender"] for r in document["rows"] if r["passes"] == passes]
    names = list(dict.fromkeys([OURS, "eager", *taking_part]))
    yield f"| {passes} | {' | '.join(names)} |"
    yield f"|---|{'---:|' * len(names)}"
    for size in sorted({(row["rows"], row["dim"]) for row in document["rows"]}):
        cells = [cell(document, name, passes, size[0]) for name in names]
        if any(text != "-" for text in cells):
            yield f"| {size[0]} x {size[1]} | {' | '.join(cells)} |"


def size_by_size(loss: str, folder: Path = FOLDER) -> str:
    """The part of a loss's page: all sizes in both dtypes, a plot of each."""
    parts: list[str] = []
    for kind in KINDS:
        document = load(loss, kind, folder)
        if document is None:
            continue
        if not parts:
            parts += [f"### {NAMES[loss]} against other libraries, size by size", ""]
        parts += [f"{kind}, {machine(document)}:", ""]
        for passes in passes_of(document):
            parts += [*sizes_table(document, passes), ""]
        parts += [f"`{document['environment']['command']}`", ""]
        name = f"{loss}-{kind}.png"
        if (folder / name).exists():
            parts += [f"![Plot of the same numbers](../plots/peers/{name})", ""]
    return "\n".join(parts)


def with_parts(text: str, folder: Path = FOLDER) -> str:
    """A page with its written parts; the README's is that of ``all``."""

    def part(match: re.Match[str]) -> str:
        loss = match["loss"]
        body = overview(folder) if loss == "all" else size_by_size(loss, folder)
        return match["begin"] + body + match["end"]

    return MARK.sub(part, text)


def main() -> int:
    """Rewrite or check README and pages."""
    return rewrite((ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))), with_parts)


if __name__ == "__main__":
    sys.exit(main())
