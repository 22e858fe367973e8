"""Writes the tables of docs/scaling.md from committed results and the model; none is typed by hand.

``python benchmarks/scaling.py`` rewrites them; with ``--check`` it exits with 1 if the page is not
what they say. The measurement is `python -m sslkern scaling`, the model `sslkern.model.scaling`
with the seconds of kernels that ``benchmarks/results/model`` has.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sslkern.model import scaling as model

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "scaling.md"

NAMES = {"ntxent": "NT-Xent", "clip": "CLIP", "info_nce": "InfoNCE, symmetric"}
GPUS = (8, 64, 512, 4096)
BATCHES = (32768, 262144, 1048576, 4194304)
DIMS = (512, 1024)
MODELLED = 32768  # rows of the kernels' model
MACHINE = model.Machine()

Row = dict[str, Any]


def measured() -> dict[str, Any]:
    """The committed measurement."""
    document: dict[str, Any] = json.loads((RESULTS / "scaling" / "float32.json").read_text())
    return document


def share_of(row: Row) -> model.Share:
    """A measured row, as the model takes it."""
    loss = model.LOSSES[row["loss"]]
    return model.Share(loss, row["processes"], row["rows_per_rank"], row["dim"], 4, 4)


# ---- what the kernels' model says


def kernels(dim: int) -> model.Kernels:
    """Seconds per pair of rows of what a rank calls for a block, bfloat16 on an H100.

    Of both losses the same: sums of rows and columns, gradients of both.
    """
    forward, backward = _passes("clip", dim)
    return model.Kernels(sum(forward) / MODELLED**2, sum(backward) / MODELLED**2)


def single_kernels(loss: str, dim: int) -> model.Kernels:
    """The same of one process."""
    forward, backward = _passes("ntxent" if loss == "ntxent" else "clip", dim)
    return model.Kernels(sum(forward) / MODELLED**2, sum(backward) / MODELLED**2)


def _passes(op: str, dim: int) -> list[tuple[float, float]]:
    """Seconds of the kernels and of the library's products, forward and backward."""
    text = " ".join((RESULTS / "model" / f"{op}-bfloat16-h100.txt").read_text().split())
    part = text.split(f"{op} {MODELLED}x{dim}, bfloat16, H100 SXM")[1]
    found = re.findall(r"ward: kernels ([\d.]+) ms \+ products ([\d.]+) ms", part)[:2]
    return [(float(kernel) / 1e3, float(product) / 1e3) for kernel, product in found]


# ---- numbers


def size(count: float) -> str:
    """Bytes, decimal, to three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1e3
    return f"{count:.3g} TB" if count < 999.5 else f"{count:.0f} TB"


def mebibytes(count: int | None) -> str:
    """As the other tables give memory."""
    return "-" if count is None else f"{count / 2**20:.1f} MiB"


def seconds(value: float) -> str:
    """To three digits."""
    return f"{value * 1e3:,.3g} ms" if value < 0.9995 else f"{value:,.3g} s"


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """In Markdown; the first column to the left."""
    headings = list(headings)
    lines = [headings, ["---"] + ["---:"] * (len(headings) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# ---- tables of what was measured


def measurement() -> str:
    """The same batch in one process and in several."""
    document = measured()
    rows = [
        (
            f"{NAMES[row['loss']]}, {row['pairs']} x {row['dim']}",
            "one" if row["strategy"] == "single" else f"{row['processes']}, {row['strategy']}",
            seconds(statistics.median(row["times_s"])),
            f"{row['time_ratio']:.2f}",
            f"{row['work_ratio']:.2f}",
            mebibytes(row["peak_bytes"]),
            mebibytes(_total(row)) if row["sent_bytes"] else "-",
        )
        for row in document["rows"]
    ]
    headings = ("N pairs x D", "processes", "time", "time / one", "work / one", "peak", "sent")
    return "\n\n".join([table(headings, rows), stamp(document)])


def stamp(document: dict[str, Any]) -> str:
    """The machine, and what was typed."""
    found = document["environment"]
    return (
        f"{found['cpu']}, {found['cores']} cores for all processes, one thread each, "
        f"torch {found['torch']}, gloo; load when it began {found['load_average']}. "
        f"Command: `{found['command']}`."
    )


def _total(row: Row) -> int:
    return sum(row["sent_bytes"].values())


def memory() -> str:
    """As many rows on each of more and more ranks, beside the model."""
    rows = measured()["per_rank"]
    counts = sorted({row["processes"] for row in rows})
    lines = []
    for loss in dict.fromkeys(row["loss"] for row in rows):
        for strategy in ("gather", "ring"):
            found = [_of(rows, loss, count, strategy) for count in counts]
            cells = [_beside_model(row) for row in found]
            first = found[0]
            name = f"{NAMES[loss]}, {first['rows_per_rank']} x {first['dim']}, {strategy}"
            lines.append((name, *cells))
    headings = ("pairs of a rank x D", *(f"W = {count}" for count in counts))
    return table(headings, lines)


def _of(rows: list[Row], loss: str, count: int, strategy: str) -> Row:
    wanted = (loss, count, "single" if count == 1 else strategy)
    return next(x for x in rows if (x["loss"], x["processes"], x["strategy"]) == wanted)


def _beside_model(row: Row) -> str:
    if row["processes"] < 3:
        return mebibytes(row["peak_bytes"])
    return f"{mebibytes(row['peak_bytes'])} ({modelled_peak(row) / 2**20:.1f})"


def modelled_peak(row: Row) -> float:
    """Of a measured row. What the kernel needs for a block is what InfoNCE needs in one process."""
    rows = measured()["per_rank"]
    other = row["loss"] if row["loss"] != "ntxent" else "info_nce"
    scratch = _of(rows, other, 1, "single")["peak_bytes"]
    share = share_of(row)
    return model.peak_bytes(share, row["strategy"], share.loss.views * scratch)


def agreement() -> str:
    """How the model agrees with what was measured."""
    document = measured()
    shared = [row for row in document["rows"] + document["per_rank"] if row["sent_bytes"]]
    exact = sum(model.sent(share_of(row), row["strategy"]) == row["sent_bytes"] for row in shared)
    more = [row["socket_bytes"] / _total(row) - 1 for row in shared if row["socket_bytes"]]
    peaks = [row for row in document["per_rank"] if row["processes"] > 2 and row["peak_bytes"]]
    off = [modelled_peak(row) / row["peak_bytes"] - 1 for row in peaks]
    lines = [
        f"- Bytes sent: {exact} of {len(shared)} rows are equal to the model, by collective.",
        f"- At the sockets the system counts {_percent(min(more))} to {_percent(max(more))} more.",
        f"- Peak memory: the model is between {_percent(min(off))} and {_percent(max(off))} off.",
    ]
    for loss in dict.fromkeys(row["loss"] for row in document["rows"]):
        rows = [x for x in document["rows"] if x["loss"] == loss and x["strategy"] != "single"]
        largest = max(x["pairs"] * x["dim"] for x in rows)
        rows = [x for x in rows if x["pairs"] * x["dim"] == largest]
        ratios = [x["work_ratio"] for x in rows]
        expected = sorted({f"{work_ratio(loss, x['processes']):.2f}" for x in rows})
        name = f"{NAMES[loss]}, {rows[0]['pairs']} x {rows[0]['dim']}"
        lines.append(
            f"- Work against one process, {name}: {' to '.join(expected)} by the products alone, "
            f"measured {min(ratios):.2f} to {max(ratios):.2f}."
        )
    return "\n".join(lines)


def _percent(x: float) -> str:
    return f"{100 * x:.1f} %"


def work_ratio(loss: str, processes: int) -> float:
    """Operations of the products of all ranks over those of one process."""
    found = model.LOSSES[loss]
    return found.flop(1, 1, processes) / found.flop(1, 1, 1)


# ---- tables of the model


def passes() -> str:
    """What the time of a block comes from."""
    rows = []
    for loss in ("clip", "ntxent"):
        for dim in DIMS:
            found, one = kernels(dim), single_kernels(loss, dim)
            together = [1e12 * (k.forward + k.backward) for k in (one, found)]
            rows.append((f"{NAMES[loss]}, D = {dim}", *(f"{x:.2f}" for x in together)))
    return table(("picoseconds of a pair of rows", "one process", "a block of the ring"), rows)


def single() -> str:
    """One GPU with the whole batch."""
    rows = []
    for loss in ("clip", "ntxent"):
        for dim in DIMS:
            cells = []
            for batch in BATCHES:
                share = model.Share(model.LOSSES[loss], 1, batch, dim)
                peak = model.single_peak(share, MACHINE)
                held = peak + 8 * batch * dim  # two views and their gradients
                time = model.single_seconds(share, single_kernels(loss, dim), MACHINE)
                room = "" if held <= MACHINE.memory else ", no room"
                cells.append(f"{seconds(time)}, {size(peak)}{room}")
            rows.append((f"{NAMES[loss]}, D = {dim}", *cells))
    return table(("pairs in all", *map(str, BATCHES)), rows)


def shared(loss: str, dim: int) -> Callable[[], str]:
    """All numbers of GPUs and batches."""

    def write() -> str:
        rows = [_shared_row(loss, dim, count, batch) for count in GPUS for batch in BATCHES]
        headings = (
            "GPUs, pairs in all",
            "pairs of a GPU",
            "gather: time",
            "limit",
            "peak",
            "sent",
            "ring: time",
            "limit",
            "peak",
            "sent",
        )
        return table(headings, rows)

    return write


def _shared_row(loss: str, dim: int, count: int, batch: int) -> list[str]:
    share = model.Share(model.LOSSES[loss], count, batch // count, dim)
    cells = [f"{count}, {batch}", str(share.rows)]
    for strategy in ("gather", "ring"):
        time = model.shared_seconds(share, strategy, kernels(dim), MACHINE)
        peak = model.peak_bytes(share, strategy, MACHINE.scratch(share))
        full = peak + 8 * share.rows * dim > MACHINE.memory
        cells += [
            seconds(time.seconds),
            time.limit,
            f"{size(peak)}, no room" if full else size(peak),
            size(sum(model.sent(share, strategy).values())),
        ]
    return cells


def limits() -> str:
    """Where gathering has no room, and from where on the ring is bound by work."""
    rows = []
    for loss in NAMES:
        for dim in DIMS:
            share = model.Share(model.LOSSES[loss], 64, 1024, dim)
            batches = [model.largest_batch(share, x, MACHINE) for x in (8e9, MACHINE.memory)]
            hidden = [
                model.rows_to_hide(model.Share(share.loss, count, 1024, dim), kernels(dim), MACHINE)
                for count in (8, 64)
            ]
            cells = [f"{x / 1e6:.2f} million" for x in batches] + [f"{x:,}" for x in hidden]
            rows.append((f"{NAMES[loss]}, D = {dim}", *cells))
    headings = (
        "",
        "gather takes 8 GB from N =",
        "80 GB from N =",
        "ring hides transfers from n =, one node",
        "from n =, many nodes",
    )
    return table(headings, rows)


TABLES: dict[str, Callable[[], str]] = {
    "measurement": measurement,
    "memory": memory,
    "agreement": agreement,
    "passes": passes,
    "single": single,
    "limits": limits,
    **{f"{loss}-{dim}": shared(loss, dim) for loss in ("clip", "ntxent") for dim in DIMS},
}


def written(text: str) -> str:
    """The page with the tables of the committed results."""
    for name, make in TABLES.items():
        marks = f"<!-- {name}: written by benchmarks/scaling.py -->", f"<!-- /{name} -->"
        between = re.compile(f"({re.escape(marks[0])}\n).*?({re.escape(marks[1])})", re.DOTALL)
        if len(between.findall(text)) != 1:
            raise ValueError(f"expected {PAGE.name} to have {marks[0]} and {marks[1]} once")
        content = make()
        text = between.sub(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)  # type: ignore[misc]
    return text


def main() -> int:
    """Rewrite or check the page."""
    text = PAGE.read_text()
    if "--check" in sys.argv:
        return int(written(text) != text)
    PAGE.write_text(written(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
