"""Colorization: the colours of a picture, predicted from its lightness."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method
from sslkern.methods.parts.colors import lab_to_rgb, rgb_to_lab
from sslkern.methods.parts.maps import cells, encode_maps
from sslkern.methods.parts.schedules import check_share
from sslkern.ops._common import check_positive_number, check_tensor, refuse
from sslkern.ops._embeddings import check_count
from sslkern.ops.soft_cross_entropy import soft_cross_entropy

_OP = "Colorization"
_NEIGHBOURS = 5
"""Bins that a colour is spread over."""
_STEPS = 33
"""Values of each of red, green and blue whose mixtures tell which bins there are."""


class Colorization(Method):
    r"""Classification of the colour of each cell of a picture that is seen in grey.

    .. math:: \ell = \frac{\sum_i v_i \, H(z_i, \hat z_i)}{\sum_i v_i}, \quad
              z_{iq} \propto e^{-\lVert y_i - c_q \rVert^2 / 2 \sigma^2}, \quad
              v_i = w_{q^*(i)}, \quad
              w_q \propto \left((1 - \lambda) \tilde p_q + \frac{\lambda}{Q}\right)^{-1}

    with the mean colour :math:`y_i`, the channels a and b of CIELAB, of the cell i of the encoder's
    maps, the centers :math:`c_q` of Q bins of colour, of which the five nearest share a colour, and
    the predicted :math:`\hat z_i`. The weight is that of the nearest bin. It makes rare colours
    count: :math:`\tilde p` is how often each bin occurs, smoothed by the same Gaussian, and the
    mean of w over it is 1. Without counts all weights are 1.

    The bins are the squares of a grid in the plane of a and b that colours of sRGB fall into, 259
    of side 10; the table of the paper has 313. The paper sums over cells where this divides by the
    sum of the weights.

    Args:
        encoder: Maps lightness (B, 1, H, W) in [0, 1] to feature maps (B, map_dim, h, w).
        map_dim: Channels of the maps.
        bin_size: Side of a bin in units of CIELAB; sigma is half of it, as in the paper.
        counts: How often the colours of each bin occur, (Q,), as `color_counts` finds.
        mix: Lambda, the share of the uniform distribution in the weights, in (0, 1].

    Raises:
        ValueError: If a size is not positive, the counts are not of shape (Q,) or not those of
            anything, or the share is outside (0, 1].
        TypeError: If a size is no number.

    Example:
        >>> import torch
        >>> from sslkern.methods import Colorization
        >>> encoder = torch.nn.Conv2d(1, 16, kernel_size=3, stride=2, padding=1)
        >>> model = Colorization(encoder, map_dim=16, bin_size=20.0)
        >>> pictures = torch.rand(4, 3, 8, 8)
        >>> model(pictures).backward()
        >>> model.colorize(pictures).shape
        torch.Size([4, 3, 8, 8])

    Source: Zhang, Isola, Efros, "Colorful Image Colorization", 2016,
    https://arxiv.org/abs/1603.08511 (section 2)
    """

    bins: Tensor
    """Centers of the bins, (Q, 2)."""
    weights: Tensor
    """Of each bin, (Q,)."""

    def __init__(
        self,
        encoder: nn.Module,
        map_dim: int,
        *,
        bin_size: float = 10.0,
        counts: Tensor | None = None,
        mix: float = 0.5,
    ) -> None:
        super().__init__()
        check_count(map_dim, "map_dim", _OP)
        check_share(mix, "mix", _OP)
        bins = color_bins(bin_size)
        if counts is None:
            weights = torch.ones(len(bins))
        else:
            weights = rebalancing(bins, counts, bin_size / 2, mix).to(torch.get_default_dtype())
        self.encoder = encoder
        self.map_dim = map_dim
        self.sigma = bin_size / 2
        self.register_buffer("bins", bins.to(torch.get_default_dtype()))
        self.register_buffer("weights", weights)
        self.head = nn.Conv2d(map_dim, len(bins), 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the weighted mean loss over the cells of all pictures.

        Args:
            pictures: sRGB, (B, 3, H, W) in [0, 1].

        Returns:
            Scalar.

        Raises:
            ValueError: If the pictures are of another shape, or the encoder returns something else
                than maps (B, map_dim, h, w).
        """
        _check_pictures(pictures, _OP)
        lab = rgb_to_lab(pictures)
        logits = self.logits(lab[:, :1])
        height, width = logits.shape[2:]
        colors = cells(F.adaptive_avg_pool2d(lab[:, 1:], (height, width))).flatten(0, 1)
        scores = cells(logits).flatten(0, 1)
        target, nearest = self.spread(colors)
        return soft_cross_entropy(
            scores,
            target.to(scores.dtype),
            student_temperature=1.0,
            from_probabilities=True,
            weight=self.weights[nearest],
        )

    def logits(self, light: Tensor) -> Tensor:
        """Scores (B, Q, h, w) of the bins, of lightness (B, 1, H, W) from 0 to 100."""
        maps = encode_maps(self.encoder, light / 100, self.map_dim, _OP)
        scores: Tensor = self.head(maps)
        return scores

    def spread(self, colors: Tensor) -> tuple[Tensor, Tensor]:
        """Shares of the bins (N, Q) of colours (N, 2), and the nearest bin of each, (N,) int64."""
        square = torch.cdist(colors, self.bins.to(colors)).square()
        near, index = square.topk(min(_NEIGHBOURS, len(self.bins)), largest=False)
        shares = (-near / (2 * self.sigma**2)).softmax(1)
        return torch.zeros_like(square).scatter(1, index, shares), index[:, 0]

    def colorize(self, pictures: Tensor, temperature: float = 0.38) -> Tensor:
        """Pictures (B, 3, H, W) of the lightness of these, in the predicted colours.

        The colour of a cell is the mean of the bins under the sharpened prediction, and the cells
        are scaled up to pixels.

        Args:
            pictures: sRGB, (B, 3, H, W) in [0, 1].
            temperature: Of the softmax: 1 takes the mean, towards 0 the most likely bin.

        Raises:
            ValueError: If the temperature is not positive or the shapes do not fit.
        """
        _check_pictures(pictures, _OP)
        light = rgb_to_lab(pictures)[:, :1]
        return lab_to_rgb(torch.cat([light, self.colors(light, temperature)], 1))

    def colors(self, light: Tensor, temperature: float = 0.38) -> Tensor:
        """The predicted channels a and b, (B, 2, H, W), of lightness (B, 1, H, W) up to 100."""
        check_positive_number(temperature, "temperature", _OP)
        shares = (self.logits(light) / temperature).softmax(1)
        colors = torch.einsum("bqhw,qc->bchw", shares, self.bins.to(shares))
        return F.interpolate(colors, light.shape[2:], mode="bilinear")


def color_bins(bin_size: float = 10.0) -> Tensor:
    """Centers of the bins of a and b that colours of sRGB fall into.

    Args:
        bin_size: Side of a bin.

    Returns:
        (Q, 2) float64, sorted.

    Raises:
        ValueError: If the size is not positive.
    """
    check_positive_number(bin_size, "bin_size", _OP)
    value = torch.linspace(0, 1, _STEPS, dtype=torch.float64)
    mixtures = torch.cartesian_prod(value, value, value).T[..., None]
    plane = rgb_to_lab(mixtures)[1:, :, 0].T
    bins: Tensor = torch.unique((plane / bin_size).round(), dim=0) * bin_size
    return bins


def color_counts(pictures: Tensor, bin_size: float = 10.0) -> Tensor:
    """How many pixels of pictures (B, 3, H, W) have a colour of each of `color_bins`, (Q,) int64.

    Raises:
        ValueError: If the size is not positive or the pictures are of another shape.
    """
    _check_pictures(pictures, "color_counts")
    bins = color_bins(bin_size).to(pictures)
    counts = torch.zeros(len(bins), dtype=torch.int64, device=pictures.device)
    for picture in pictures:
        nearest = torch.cdist(cells(rgb_to_lab(picture[None])[:, 1:])[0], bins).argmin(1)
        counts += torch.bincount(nearest, minlength=len(bins))
    return counts


def rebalancing(bins: Tensor, counts: Tensor, sigma: float, mix: float = 0.5) -> Tensor:
    """Weights of bins that make up for how often they occur.

    Args:
        bins: Centers (Q, 2).
        counts: How often each occurs, (Q,).
        sigma: Of the Gaussian that smooths the frequencies.
        mix: Share of the uniform distribution, in (0, 1].

    Returns:
        (Q,) float64, of mean 1 under the smoothed frequencies.

    Raises:
        ValueError: If the counts are not of shape (Q,) or not those of anything, or the share is
            outside (0, 1].
    """
    check_tensor(counts, "counts", _OP)
    if counts.shape != (len(bins),):
        refuse(_OP, "counts", f"of shape ({len(bins)},)", f"shape {tuple(counts.shape)}")
    if bool((counts < 0).any()) or not bool((counts > 0).any()):
        refuse(_OP, "counts", "not negative and not all zero", "others")
    if not 0 < mix <= 1:
        refuse(_OP, "mix", "above 0 and at most 1", mix)
    kernel = (-torch.cdist(bins, bins).square() / (2 * sigma**2)).exp()
    smooth = (kernel / kernel.sum(0)) @ counts.to(bins)
    share = smooth / smooth.sum()
    weights = 1 / ((1 - mix) * share + mix / len(bins))
    return weights / (share * weights).sum()


def _check_pictures(pictures: Tensor, op: str) -> None:
    check_tensor(pictures, "pictures", op)
    if pictures.dim() != 4 or pictures.shape[1] != 3 or len(pictures) == 0:
        refuse(op, "pictures", "of shape (B, 3, H, W) with B > 0", f"shape {tuple(pictures.shape)}")
