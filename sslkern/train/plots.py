"""The pictures of a run: curves of the loss and of collapse, a map of the features.

They are drawn on `Figure` objects without pyplot: no window system, no figure left open.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from torch import Tensor

from sslkern._files import write_atomic
from sslkern.train.engine import Record


def plot_loss(history: Sequence[Record], title: str, path: Path) -> None:
    """Write the loss of every step, and its mean per epoch, as a PNG."""
    epochs: dict[int, list[Record]] = {}
    for record in history:
        epochs.setdefault(int(record["epoch"]), []).append(record)
    middles = [fmean(record["step"] for record in records) for records in epochs.values()]
    means = [fmean(record["loss"] for record in records) for records in epochs.values()]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    steps, losses = [r["step"] for r in history], [r["loss"] for r in history]
    axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=0.8, label="step")
    marker = "." if len(means) < 20 else ""  # one epoch alone would draw no line
    axes.plot(middles, means, color="tab:blue", marker=marker, label="mean of the epoch")
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def plot_collapse(history: Sequence[Record], title: str, path: Path) -> None:
    """Write what was watched of the embeddings after each epoch, a panel each, as a PNG.

    At least one epoch must have ended.
    """
    records = watched(history)
    names = watched_names(records)
    figure = Figure(figsize=(3 * len(names), 3), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        axes.plot([r["epoch"] for r in records], [r[name] for r in records], marker=".")
        axes.set(xlabel="epoch", title=name)
        axes.grid(alpha=0.3)
    save(figure, path)


def watched(history: Sequence[Record]) -> list[Record]:
    """The records that say how far embeddings are from collapse."""
    return [record for record in history if "std" in record]


def watched_names(records: Sequence[Record]) -> list[str]:
    """What they say of it."""
    return [name for name in records[0] if name not in ("step", "epoch", "loss", "lr")]


def plot_embedding(
    features: Mapping[str, Tensor],
    labels: Tensor,
    classes: Sequence[str],
    seed: int,
    title: str,
    path: Path,
) -> None:
    """Write one t-SNE map per entry of ``features``, coloured by class, as a PNG.

    Args:
        features: Title of the map -> features (N, D) floating.
        labels: (N,) int64 from 0 on; they choose the colours and nothing else.
        classes: Name of each class.
        seed: Of t-SNE.
        title: Above all maps.
        path: The file; replaced if it exists.
    """
    figure = Figure(figsize=(5 * len(features) + 0.8, 5), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(features), squeeze=False)[0]
    for axes, (name, values) in zip(panels, features.items(), strict=True):
        points = _scatter(axes, map_to_plane(values, seed), labels, len(classes))
        axes.set(title=name, xticks=[], yticks=[])
    bar = figure.colorbar(points, ax=list(panels), ticks=range(len(classes)))
    bar.ax.set_yticklabels(classes)
    bar.ax.tick_params(length=0)
    save(figure, path)


def map_to_plane(features: Tensor, seed: int) -> Tensor:
    """Map (N, D) to the plane (N, 2) by t-SNE, starting from the two principal components."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)  # must be below N
    tsne = TSNE(init="pca", perplexity=perplexity, random_state=seed)
    return torch.from_numpy(tsne.fit_transform(features.numpy()))


def _scatter(axes: Axes, points: Tensor, labels: Tensor, classes: int) -> PathCollection:
    x, y = points.T.numpy()
    colours = colormaps["tab10" if classes <= 10 else "tab20"].resampled(classes)
    return axes.scatter(x, y, c=labels.numpy(), cmap=colours, vmin=-0.5, vmax=classes - 0.5, s=8)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomic(path, buffer.getvalue())
