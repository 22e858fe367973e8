"""Jigsaw: which of some permutations the tiles of an image were put into."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.jigsaw import check_grid, cut_tiles
from sslkern.methods.parts.pretext import PretextTask
from sslkern.ops._common import refuse
from sslkern.ops._embeddings import check_count

_OP = "Jigsaw"
_EPS = 1e-6


class Jigsaw(PretextTask):
    r"""Classification of permutations of the tiles of an image.

    .. math:: \ell = -\frac{1}{B} \sum_i
              \log \mathrm{softmax}(g([f(t_{\pi(1)}), \ldots, f(t_{\pi(T)})]))_{y_i},
              \quad \pi = \pi_{y_i}

    The image is divided into T = ``grid`` x ``grid`` cells, and a tile is a square at a random
    place of each: the gaps keep lines that go on from one tile to the next from giving the answer
    away. One encoder sees all tiles; the head g, a perceptron of two layers, sees their features
    side by side in the order of the permutation. Each image has one permutation in each batch.

    The permutations are few and far apart: after a random first one, each next one has the largest
    summed Hamming distance to those before it, as in the paper. They are drawn when the module is
    made, from torch's global generator, and are a buffer.

    Args:
        encoder: Maps tiles (N, C, P, P) to features (N, feature_dim).
        feature_dim: Width of the encoder's features.
        tile_size: Side P of a tile in pixels, at most that of a cell.
        permutations: Number of permutations K, at most T!.
        grid: Cells along each side, 2 or 3.
        hidden_dim: Width of the head's hidden layer; ``feature_dim`` if not given.
        normalize_tiles: Whether each tile gets mean 0 and standard deviation 1, as in the paper:
            neighbours are alike in both.

    Raises:
        ValueError: If a size is not positive, the grid is another one, or there are not as many
            permutations.
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import Jigsaw
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 32))
        >>> model = Jigsaw(encoder, feature_dim=32, tile_size=4, permutations=10)
        >>> images = torch.rand(5, 3, 16, 16)
        >>> model(images).backward()
        >>> tiles, answers = model.problems(images)
        >>> tiles.shape, model.logits(tiles).shape
        (torch.Size([5, 9, 3, 4, 4]), torch.Size([5, 10]))

    Source: Noroozi, Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw
    Puzzles", 2016, https://arxiv.org/abs/1603.09246
    """

    permutations: Tensor
    """Which tile comes to each place, (K, T) int64."""

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        *,
        tile_size: int = 64,
        permutations: int = 1000,
        grid: int = 3,
        hidden_dim: int | None = None,
        normalize_tiles: bool = True,
    ) -> None:
        super().__init__()
        check_grid(grid, tile_size, _OP)
        check_count(feature_dim, "feature_dim", _OP)
        hidden_dim = feature_dim if hidden_dim is None else hidden_dim
        check_count(hidden_dim, "hidden_dim", _OP)
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.tile_size = tile_size
        self.grid = grid
        self.normalize_tiles = normalize_tiles
        self.register_buffer("permutations", distant_permutations(grid**2, permutations))
        self.head = mlp([grid**2 * feature_dim, hidden_dim, permutations], norm="none")

    def problems(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Permuted tiles of each image, and which permutation it is.

        Args:
            images: (B, C, H, W), whose cells the tiles fit into.

        Returns:
            (B, T, C, P, P), and (B,) int64 from 0 to K - 1.

        Raises:
            ValueError: If the images are too small.
        """
        tiles = self._cut(images)
        answer = torch.randint(len(self.permutations), (len(images),), device=images.device)
        image = torch.arange(len(images), device=images.device)[:, None]
        return tiles[image, self.permutations[answer]], answer

    def logits(self, inputs: Tensor) -> Tensor:
        """Scores (B, K) of the permutations for tiles (B, T, C, P, P)."""
        scores: Tensor = self.head(self.encode_parts(inputs))
        return scores

    def _cut(self, images: Tensor) -> Tensor:
        """Tiles (B, T, C, P, P) in the order of the cells, row by row."""
        tiles = cut_tiles(images, self.grid, self.tile_size, _OP)
        if not self.normalize_tiles:
            return tiles
        variance, mean = torch.var_mean(tiles, (2, 3, 4), correction=0, keepdim=True)
        return (tiles - mean) / (variance + _EPS).sqrt()


def distant_permutations(size: int, count: int) -> Tensor:
    """Permutations of 0 to ``size`` - 1, each as far as can be from those before it.

    Args:
        size: How many things are permuted.
        count: Number K of permutations.

    Returns:
        (K, size) int64; the first is random, from torch's global generator.

    Raises:
        ValueError: If there are fewer permutations.
    """
    check_count(count, "permutations", _OP)
    rows = all_permutations(size)
    if count > len(rows):
        refuse(_OP, "permutations", f"at most {len(rows)}", count)
    places = rows.T.contiguous()
    distance = torch.zeros(len(rows), dtype=torch.int32)
    chosen = [int(torch.randint(len(rows), ()))]
    for _ in range(count - 1):
        distance += _hamming(places, chosen[-1])
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return rows[chosen].long()


def _hamming(places: Tensor, k: int) -> Tensor:
    """Of column k of (size, n) to every column, (n,) int8; a place at a time vectorises."""
    distance = torch.zeros(places.shape[1], dtype=torch.int8)
    for place in places:
        distance += (place != place[k]).view(torch.int8)
    return distance


def all_permutations(size: int) -> Tensor:
    """All permutations of 0 to ``size`` - 1, (size!, size) int8."""
    rows = torch.zeros(1, 0, dtype=torch.int8)
    for new in range(size):
        column = torch.full((len(rows), 1), new, dtype=torch.int8)
        rows = torch.cat([torch.cat([rows[:, :i], column, rows[:, i:]], 1) for i in range(new + 1)])
    return rows
