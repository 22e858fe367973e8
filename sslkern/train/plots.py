"""The two pictures of a run: the curve of the loss and a map of the features.

They are drawn on `Figure` objects without pyplot: no window system, no figure left open.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import torch
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
    axes.set(xlabel="step", ylabel="NT-Xent loss", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def plot_embedding(
    features: Mapping[str, Tensor], labels: Tensor, seed: int, title: str, path: Path
) -> None:
    """Write one t-SNE map per entry of ``features``, coloured by digit, as a PNG.

    Args:
        features: Title of the map -> features (N, D) floating.
        labels: (N,) int64 in 0..9; they choose the colours and nothing else.
        seed: Of t-SNE.
        title: Above all maps.
        path: The file; replaced if it exists.
    """
    figure = Figure(figsize=(5 * len(features) + 0.8, 5), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(1, len(features), squeeze=False)[0]
    for axes, (name, values) in zip(panels, features.items(), strict=True):
        points = _scatter(axes, map_to_plane(values, seed), labels)
        axes.set(title=name, xticks=[], yticks=[])
    bar = figure.colorbar(points, ax=list(panels), ticks=range(10), label="digit")
    bar.ax.tick_params(length=0)
    _save(figure, path)


def map_to_plane(features: Tensor, seed: int) -> Tensor:
    """Map (N, D) to the plane (N, 2) by t-SNE, starting from the two principal components."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(features) - 1) / 3)  # must be below N
    tsne = TSNE(init="pca", perplexity=perplexity, random_state=seed)
    return torch.from_numpy(tsne.fit_transform(features.numpy()))


def _scatter(axes: Axes, points: Tensor, labels: Tensor) -> PathCollection:
    x, y = points.T.numpy()
    return axes.scatter(x, y, c=labels.numpy(), cmap="tab10", vmin=-0.5, vmax=9.5, s=8)


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomic(path, buffer.getvalue())
