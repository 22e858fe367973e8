"""The contrastive random walk beside its formula."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from clips import clip_batches, small_map_encoder
from steps import check_steps, unit
from torch import Tensor, nn

from sslkern.methods import ContrastiveRandomWalk

DROPPED = -torch.finfo(torch.float64).max


def make(**options: Any) -> ContrastiveRandomWalk:
    torch.manual_seed(0)
    settings = {"projection_dim": 4, "temperature": 0.3, "edge_dropout": 0.0, **options}
    return ContrastiveRandomWalk(small_map_encoder(), 6, **settings).double()


def plain_loss(m: ContrastiveRandomWalk, frames: Tensor) -> Tensor:
    clips, length = frames.shape[:2]
    nodes = [
        [unit(m.head(m.encoder(frame[None])[0].flatten(1).T)) for frame in clip] for clip in frames
    ]
    raw = [[x @ y.T / m.temperature for x, y in pairwise(c)] for c in nodes]
    shape = (clips, length - 1, *raw[0][0].shape)
    drops = [torch.rand(shape, dtype=torch.float64) < m.edge_dropout for _ in range(2)]
    losses = []
    for c in range(clips):
        for last in range(1, length):
            walk = torch.eye(shape[-1], dtype=torch.float64)
            for t in range(last):
                walk = walk @ torch.where(drops[0][c, t], DROPPED, raw[c][t]).softmax(1)
            for t in reversed(range(last)):
                walk = walk @ torch.where(drops[1][c, t], DROPPED, raw[c][t].T).softmax(1)
            losses.append(-walk.diagonal().add(1e-20).log().mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("edge_dropout", [0.0, 0.4])
def test_steps_equal_the_formula(edge_dropout: float) -> None:
    check_steps(make(edge_dropout=edge_dropout), plain_loss, clip_batches(frames=4))


@pytest.mark.parametrize(
    ("nodes", "temperature", "expected"), [(49, 0.5, 3.8833586790), (9, 1.0, 2.1919544392)]
)
def test_one_hot_nodes_walk_as_the_closed_form_says(
    nodes: int, temperature: float, expected: float
) -> None:
    """The walk of two frames and back; that of one frame is subtracted from the mean of both."""

    def closed_form(steps: int) -> float:
        e = math.exp(1 / temperature)
        p, q = e / (e + nodes - 1), 1 / (e + nodes - 1)
        return -math.log(1 / nodes + (1 - 1 / nodes) * (p - q) ** (2 * steps))

    model = one_hot_model(nodes, temperature=temperature)
    frames = torch.eye(nodes, dtype=torch.float64).expand(2, 3, nodes, nodes)
    both = model(frames).item()
    assert closed_form(2) == pytest.approx(expected, abs=1e-9)
    assert 2 * both - closed_form(1) == pytest.approx(expected, abs=1e-9)


def one_hot_model(nodes: int, **options: Any) -> ContrastiveRandomWalk:
    """Its nodes are the columns of the frames."""
    model = ContrastiveRandomWalk(nn.Identity(), nodes, projection_dim=nodes, **options).double()
    with torch.no_grad():
        model.head[0].weight.copy_(torch.eye(nodes))
        model.head[0].bias.zero_()
    return model.eval()


def test_equal_nodes_walk_anywhere() -> None:
    """Uniform steps, whatever is dropped: a row that lost all its edges is uniform too."""
    frames = torch.ones(2, 4, 5, 7, dtype=torch.float64)
    assert one_hot_model(5)(frames).item() == pytest.approx(math.log(7), abs=1e-12)
    certain = one_hot_model(5, edge_dropout=1 - 1e-12).train()
    assert certain(frames).item() == pytest.approx(math.log(7), abs=1e-12)


def test_edges_are_dropped_in_training_only() -> None:
    (frames,) = clip_batches()[0]
    dropping, whole = make(edge_dropout=0.5), make()
    assert dropping(frames) != whole(frames)
    assert dropping.eval()(frames) == whole.eval()(frames)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "ContrastiveRandomWalk: expected temperature to be positive"),
        ({"edge_dropout": 1.0}, r"expected edge_dropout to be from 0 to below 1, got 1.0"),
        ({"edge_dropout": -0.1}, "expected edge_dropout to be from 0"),
        ({"projection_dim": 0}, "expected dims to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected frames .* at least 2 frames, got \(2, 1, 3"):
        make()(torch.rand(2, 1, 3, 4, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"expected encoder .* maps \(4, 5, ...\), got \(4, 3, 7"):
        one_hot_model(5)(torch.rand(2, 2, 3, 7, dtype=torch.float64))
