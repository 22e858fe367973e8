"""The results as a picture: time and peak memory of every contender at every size.

Sizes that differ only in N are drawn as lines over N, with logarithmic axes so that the growth
shows as a slope. Other sizes have no common axis: each gets a panel of bars.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot: draws into files, looks for no display
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from sslkern._files import write_atomic
from sslkern.bench.contenders import Size
from sslkern.bench.environment import describe
from sslkern.bench.results import OURS, Results, Row
from sslkern.bench.table import format_bytes, format_seconds

OUR_COLOR, FLOOR_COLOR, INK, FAINT = "#d1495b", "#555555", "#222222", "#dddddd"
PEER_COLORS = ("#2e4057", "#5b83a8", "#8fa9bd", "#8d6a9f", "#5f9e8f")
DASHES = (0, (3, 2))
MIN_SIZES_OF_A_SWEEP = 3
MIN_LABEL_DISTANCE = 0.055
"""Between the labels at the ends of lines, as a part of the height of the panel."""
MEMORY_TITLE = "peak memory beyond inputs and gradients"

Value = Callable[[Row], float | None]


def save_plot(results: Results, title: str, path: Path, dpi: int = 160) -> None:
    """Draw the rows that ran; ``path`` is replaced when the picture is complete."""
    buffer = io.BytesIO()
    form = path.suffix.removeprefix(".").lower()
    draw(results, title).savefig(buffer, format=form, dpi=dpi, facecolor="white")
    write_atomic(path, buffer.getvalue())


def draw(results: Results, title: str) -> Figure:
    """The figure of a run."""
    rows = [row for row in results.rows if row.times_s]
    sizes = list(dict.fromkeys(row.size for row in rows))
    has_memory = any(row.peak_bytes is not None for row in rows)
    sweep = len({s.dim for s in sizes}) == 1 and len(sizes) >= MIN_SIZES_OF_A_SWEEP
    figure = _draw_sweep(rows, sizes, has_memory) if sweep else _draw_bars(rows, has_memory)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=INK)
    legend = "" if sweep else f"(2x): {OURS} is faster by this factor.   "
    footer = legend + describe(results.environment)
    figure.text(0.01, 0.006, footer, fontsize=7, color=FLOOR_COLOR)
    return figure


def _layout() -> ConstrainedLayoutEngine:
    """Leaves room for the footer."""
    return ConstrainedLayoutEngine(rect=(0.0, 0.035, 1.0, 0.955), w_pad=0.12, h_pad=0.08)


def _seconds(row: Row) -> float | None:
    return row.median_s


def _bytes(row: Row) -> float | None:
    return None if row.peak_bytes is None else float(row.peak_bytes)


def _colors(rows: Sequence[Row]) -> dict[str, str]:
    """Ours stands out; the floor is grey; the others take their colours in order."""
    peers = [n for n in dict.fromkeys(r.contender for r in rows if not r.is_floor) if n != OURS]
    colors = {name: PEER_COLORS[i % len(PEER_COLORS)] for i, name in enumerate(peers)}
    return {OURS: OUR_COLOR} | colors | {r.contender: FLOOR_COLOR for r in rows if r.is_floor}


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=9.5, color=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")
    axes.tick_params(colors=INK, labelsize=8.5, length=3)
    axes.set_axisbelow(True)


def _draw_bars(rows: Sequence[Row], has_memory: bool) -> Figure:
    """A column of panels per size: time above, memory below."""
    by_size = [(size, list(group)) for size, group in groupby(rows, key=lambda row: row.size)]
    most = max(sum(not row.is_floor for row in group) for _, group in by_size)
    panels_down = 2 if has_memory else 1
    figure = Figure(
        figsize=(max(5.6, 3.7 * len(by_size)), 0.75 + panels_down * (0.7 + 0.33 * most)),
        layout=_layout(),
    )
    grid = figure.subplots(panels_down, len(by_size), squeeze=False)
    colors = _colors(rows)
    for column, (size, group) in enumerate(by_size):
        _style(grid[0, column], f"N = {size.rows}, D = {size.dim}: time")
        _bars(grid[0, column], group, colors, _seconds, _time_label)
        _floor_line(grid[0, column], group)
        if has_memory:
            _style(grid[1, column], MEMORY_TITLE)
            _bars(grid[1, column], group, colors, _bytes, _memory_label)
    return figure


def _bars(
    axes: Axes,
    rows: Sequence[Row],
    colors: dict[str, str],
    value: Value,
    label: Callable[[Row], str],
) -> None:
    """Horizontal bars from zero, each with its number."""
    bars = [row for row in rows if not row.is_floor]
    lengths = [value(row) or 0.0 for row in bars]
    names = [row.contender for row in bars]
    axes.barh(names, lengths, color=[colors[name] for name in names], height=0.66)
    for i, row in enumerate(bars):
        axes.annotate(
            label(row),
            (lengths[i], i),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
            fontweight="bold" if row.contender == OURS else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},  # over the floor's line
        )
    axes.set_xlim(0, 1.42 * (max(lengths, default=0.0) or 1.0))  # room for the numbers
    axes.set_xticks([])  # every bar carries its number
    axes.spines["bottom"].set_visible(False)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.margins(y=0.08)


def _floor_line(axes: Axes, rows: Sequence[Row]) -> None:
    """The floor as a dashed line across the bars."""
    for row in rows:
        if row.is_floor:
            axes.axvline(row.median_s, color=FLOOR_COLOR, linestyle=DASHES, linewidth=1)
            axes.annotate(
                row.contender,
                (row.median_s, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(3, -1),
                textcoords="offset points",
                fontsize=7.5,
                color=FLOOR_COLOR,
                va="top",
            )


def _time_label(row: Row) -> str:
    if row.speedup is None or row.contender == OURS:
        return format_seconds(row.median_s)
    return f"{format_seconds(row.median_s)}  ({row.speedup:.1f}x)"


def _memory_label(row: Row) -> str:
    return "not measured" if row.peak_bytes is None else format_bytes(row.peak_bytes)


def _draw_sweep(rows: Sequence[Row], sizes: Sequence[Size], has_memory: bool) -> Figure:
    """Time over N, and memory over N beside it; a row of panels for each of the passes."""
    panels = 2 if has_memory else 1
    passes = list(dict.fromkeys(row.passes for row in rows))
    figure = Figure(figsize=(6.0 * panels, 0.4 + 4.0 * len(passes)), layout=_layout())
    grid = figure.subplots(len(passes), panels, squeeze=False)
    colors = _colors(rows)
    for panel, name in zip(grid, passes, strict=True):
        of_pass = [row for row in rows if row.passes == name]
        what = f" of {name}" if len(passes) > 1 else ""
        _style(panel[0], f"time{what}")
        _lines(panel[0], of_pass, colors, _seconds)
        panel[0].yaxis.set_major_formatter(FuncFormatter(lambda y, _: _tick_time(y)))
        if has_memory:
            _style(panel[1], f"{MEMORY_TITLE}{what and ','}{what}")
            _lines(panel[1], of_pass, colors, _bytes)
            panel[1].set_yscale("log", base=2)
            panel[1].yaxis.set_major_formatter(FuncFormatter(lambda y, _: _tick_bytes(y)))
    for axes in grid.flat:
        axes.set_xlabel(f"N (rows in total), D = {sizes[0].dim}", fontsize=9, color=INK)
        axes.set_xticks([size.rows for size in sizes], [str(size.rows) for size in sizes])
    return figure


def _tick_time(value: float) -> str:
    return f"{value:g} s" if value >= 1 else f"{value * 1e3:g} ms"


def _tick_bytes(value: float) -> str:
    if value < 2**20:
        return f"{value / 2**10:.3g} KiB"
    return format_bytes(round(value)).replace(".00 ", " ").replace(".0 ", " ")


def _lines(axes: Axes, rows: Sequence[Row], colors: dict[str, str], value: Value) -> None:
    """A line per contender with its name at the end."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_locator(NullLocator())
    ends: list[tuple[str, float, float]] = []
    for name, color in colors.items():
        own = [row for row in rows if row.contender == name]
        points = sorted((float(row.size.rows), v) for row in own if (v := value(row)))
        if points:
            xs, ys = zip(*points, strict=True)
            _line(axes, xs, ys, color, is_ours=name == OURS, is_floor=own[0].is_floor)
            ends.append((name, *points[-1]))
    _label_ends(axes, ends, colors)


def _line(
    axes: Axes,
    xs: Sequence[float],
    ys: Sequence[float],
    color: str,
    *,
    is_ours: bool,
    is_floor: bool,
) -> None:
    axes.plot(
        xs,
        ys,
        color=color,
        marker="" if is_floor else "o",
        markersize=5.5 if is_ours else 4,
        linewidth=2.6 if is_ours else 1.5,
        linestyle=DASHES if is_floor else "-",
        zorder=4 if is_floor else 3 if is_ours else 2,
    )


def _label_ends(
    axes: Axes, ends: Sequence[tuple[str, float, float]], colors: dict[str, str]
) -> None:
    """Write each name beside the end of its line, moved apart where lines end close together."""
    axes.autoscale_view()
    to_panel = axes.transScale + axes.transLimits  # data to parts of the panel
    if not ends:
        return
    placed = sorted(
        ((name, *to_panel.transform((x, y))) for name, x, y in ends), key=lambda end: end[2]
    )
    heights = _spread([y for _, _, y in placed])
    for (name, x, _), height in zip(placed, heights, strict=True):
        axes.annotate(
            name,
            (x, height),
            xycoords="axes fraction",
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colors[name],
            fontweight="bold" if name == OURS else "normal",
            annotation_clip=False,
        )


def _spread(heights: list[float]) -> list[float]:
    """Ascending heights, pushed apart evenly until neighbours keep the smallest distance."""
    heights = list(heights)
    for _ in range(100):  # far more than a handful of labels needs to settle
        for i in range(1, len(heights)):
            lack = MIN_LABEL_DISTANCE - (heights[i] - heights[i - 1])
            if lack > 0:
                heights[i - 1] -= lack / 2
                heights[i] += lack / 2
    return heights
