"""Writes the README's benchmark table from the committed results; nothing in it is typed by hand.

``python benchmarks/readme.py`` rewrites the table in README.md; with ``--check`` it exits with 1 if
the table is not what the results say.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from pages import rewrite

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
MARKS = ("<!-- benchmark: written by benchmarks/readme.py -->", "<!-- /benchmark -->")

CONTENDERS = ("eager", "compile", "lightly")
HEADER = """\
| | N x D | sslkern | vs eager | vs torch.compile | vs lightly | time / two sgemm | of FMA peak \
| peak memory | eager's |
|---|---|---|---|---|---|---|---|---|---|"""


def load(name: str) -> dict[str, Any]:
    """One committed result."""
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return document


def row_of(document: dict[str, Any], size: tuple[int, int], contender: str) -> dict[str, Any]:
    """The row of a contender at a size; empty where it was not run."""
    for row in document["rows"]:
        if (row["rows"], row["dim"], row["contender"]) == (*size, contender):
            found: dict[str, Any] = row
            return found
    return {}


def ratio(row: dict[str, Any], ours: dict[str, Any]) -> str:
    """How many times slower a contender is: the median over the rounds."""
    if not row.get("times_s"):
        return "-"
    pairs = zip(row["times_s"], ours["times_s"], strict=True)
    return f"{statistics.median(theirs / own for theirs, own in pairs):.1f}x"


def mebibytes(row: dict[str, Any]) -> str:
    """Peak memory beyond inputs and gradients."""
    return f"{row['peak_bytes'] / 2**20:.0f} MiB" if row.get("peak_bytes") else "-"


def command(document: dict[str, Any]) -> str:
    """What was typed, with the instruction set where it was forced."""
    environment = document["environment"]
    forced = environment["instruction_set"].lower() != environment["torch_instruction_set"].lower()
    prefix = f"SSLKERN_ISA={environment['instruction_set']} " if forced else ""
    return f"{prefix}{environment['command']}"


def table_row(document: dict[str, Any], label: str, size: tuple[int, int]) -> str:
    """One line of the table."""
    ours = row_of(document, size, "sslkern")
    over_floor = ours["time_over_floor"]
    cells = [
        label,
        f"{size[0]} x {size[1]}",
        milliseconds(ours),
        *(ratio(row_of(document, size, name), ours) for name in CONTENDERS),
        f"{over_floor:.2f}" if over_floor else "-",
        f"{ours['fraction_of_fma_peak']:.0%}",
        mebibytes(ours),
        mebibytes(row_of(document, size, "eager")),
    ]
    return f"| {' | '.join(cells)} |"


LOSSES_HEADER = """\
| float32, AVX-512 | sslkern | vs eager | vs torch.compile | vs peer | time / floor | peak memory \
| eager's |
|---|---|---|---|---|---|---|---|"""

PML, CHUNKED = "pytorch-metric-learning", "torch chunked"

LOSSES: tuple[tuple[Any, ...], ...] = (
    ("clip-float32", (4096, 128), "CLIP, B = 4096, D = 128", "open_clip"),
    ("clip-float32", (4096, 512), "CLIP, B = 4096, D = 512", "open_clip"),
    ("info_nce-float32", (256, 128), "MoCo, 256 x 65536 queue, D = 128", "info-nce-pytorch"),
    ("siglip-float32", (4096, 128), "SigLIP, B = 4096, D = 128", "open_clip"),
    ("siglip-float32", (4096, 512), "SigLIP, B = 4096, D = 512", "open_clip"),
    ("supcon-float32", (4096, 128), "SupCon, N = 4096, D = 128", PML),
    ("supcon-float32", (8192, 128), "SupCon, N = 8192, D = 128", PML),
    ("dcl-float32", (8192, 128), "DCL, N = 8192, D = 128", "lightly"),
    ("linear_cross_entropy-float32", (1024, 256), "vocabulary, 1024 x 30522 x 256", CHUNKED),
    ("linear_cross_entropy-float32", (2048, 768), "vocabulary, 2048 x 30522 x 768", CHUNKED),
    ("soft_cross_entropy-float32", (640, 65536), "DINO, 640 x 65536", "dino"),
    ("negative_sampling-float32", (16384, 128), "word2vec, 16384 x (1 + 20), D = 128", ""),
    ("sinkhorn-float32", (64, 3000), "Sinkhorn, 64 x 3000", "swav"),
    ("sinkhorn-float32", (4096, 3000), "Sinkhorn, 4096 x 3000", "swav"),
    ("sinkhorn-float32", (4096, 3000), "Sinkhorn, 4096 x 3000, `out=`", "swav", "sslkern out="),
    ("swav-float32", (256, 3000), "SwAV, 2 + 6 crops, 256 x 3000", "lightly"),
    ("cross_correlation-float32", (256, 8192), "Barlow Twins, 256 x 8192", "lightly"),
    ("cross_correlation-float32", (1024, 2048), "Barlow Twins, 1024 x 2048", "lightly"),
    ("cross_correlation-float32", (2048, 2048), "Barlow Twins, 2048 x 2048", "lightly"),
    ("covariance-float32", (256, 8192), "VICReg, 256 x 8192", "lightly"),
    ("covariance-float32", (2048, 2048), "VICReg, 2048 x 2048", "lightly"),
)


def losses_row(
    name: str, size: tuple[int, int], label: str, peer: str, contender: str = "sslkern"
) -> str:
    """One line of the table of all other losses."""
    document = load(name)
    ours = row_of(document, size, contender)
    versus = [ratio(row_of(document, size, other), ours) for other in ("eager", "compile", peer)]
    memory = [mebibytes(ours), mebibytes(row_of(document, size, "eager"))]
    floor = f"{ours['time_over_floor']:.2f}"
    return f"| {' | '.join([label, milliseconds(ours), *versus, floor, *memory])} |"


def milliseconds(row: dict[str, Any]) -> str:
    """Median time of forward and backward."""
    return f"{row['median_s'] * 1e3:,.3g} ms" if row["median_s"] < 1 else f"{row['median_s']:.1f} s"


def table() -> str:
    """The whole table."""
    sizes = ((2048, 128), (8192, 128), (4096, 512))
    lines = [HEADER]
    for isa, label in (("avx512", "float32, AVX-512"), ("avx2", "float32, AVX2")):
        document = load(f"ntxent-float32-{isa}")
        lines += [table_row(document, label, size) for size in sizes]
    lines.append(table_row(load("ntxent-bfloat16"), "bfloat16, AVX-512", (8192, 128)))
    lines.append(table_row(load("ntxent-float32-large"), "float32, AVX-512", (131072, 128)))
    environment = load("ntxent-float32-avx512")["environment"]
    commands = [command(load(p.stem)) for p in sorted(RESULTS.glob("*.json"))]
    return "\n".join(
        [
            *lines,
            "",
            LOSSES_HEADER,
            *(losses_row(*case) for case in LOSSES),
            "",
            "The peer is open_clip (CLIP, SigLIP), info-nce-pytorch (MoCo), "
            "pytorch-metric-learning (SupCon), lightly (DCL, SwAV, Barlow Twins, VICReg), "
            "torch's chunked `linear_cross_entropy` (vocabulary), the formulas of DINO's authors "
            "or the loop of SwAV's (Sinkhorn, 3 iterations, which has no backward pass). The "
            "floors of DINO, Sinkhorn and SwAV write into memory that is there already.",
            "",
            f"{environment['cpu']}, {environment['threads']} threads, "
            f"torch {environment['torch']}. "
            "Medians of alternating rounds; ratios are medians over the rounds. Commands "
            "(raw times in `benchmarks/results/`):",
            "",
            "```",
            *commands,
            "```",
        ]
    )


def with_table(text: str) -> str:
    """The README with the table of the committed results."""
    between = re.compile(f"({re.escape(MARKS[0])}\n).*?(\n{re.escape(MARKS[1])})", re.DOTALL)
    return between.sub(lambda match: match[1] + table() + match[2], text)


def main() -> int:
    """Rewrite or check the README."""
    return rewrite([README], with_table)


if __name__ == "__main__":
    sys.exit(main())
