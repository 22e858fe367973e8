"""What tells a good representation from a collapsed one, without labels."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.ops._common import check_positive_number, check_same_device, check_tensor
from sslkern.ops.info_nce import positive_rank
from sslkern.parallel.processes import Sharing, are_many
from sslkern.parallel.rows import reduce_rows, rows_of_ranks
from sslkern.reference._common import normalize_rows, to_working_dtype

_RANK_EPS = 1e-7
"""Added to each share of the spectrum, as in the paper: the logarithm of none is that of zero."""


def alignment(
    x: Tensor,
    y: Tensor,
    alpha: float = 2,
    *,
    gather_distributed: bool = False,
    process_group: dist.ProcessGroup | None = None,
    check: bool = True,
) -> Tensor:
    r"""Mean distance between the two embeddings of each sample, raised to a power: low is good.

    .. math:: \frac{1}{N} \sum_i \lVert \hat x_i - \hat y_i \rVert^\alpha

    It is 0 where the views of every sample agree, and with the power 2 it is 4 at most. Collapsed
    embeddings agree as well: read it beside a measure of spread, such as `sslkern.rankme`.

    Args:
        x: Embeddings of one view (N, D), float64, float32, bfloat16 or float16; the rows are scaled
            to unit norm, and those with a norm below 1e-12 count as zero. May require grad.
        y: Embeddings of the other view, of the same shape and dtype.
        alpha: The power, a positive number. Below 2 the slope at a distance of zero is taken
            as zero.
        gather_distributed: Whether the mean is that of the samples of all ranks, each of which
            gives its own; see `sslkern.parallel` for what that means for gradients.
        process_group: The ranks; by default all.
        check: Whether the ranks first compare their arguments, at the price of one small exchange.

    Returns:
        A scalar; float64 for float64 inputs, else float32.

    Raises:
        ValueError: For a wrong shape, device or power.
        TypeError: For a wrong dtype.

    Example:
        >>> import torch, sslkern
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> y = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
        >>> print(f"{sslkern.alignment(x, y).item():.4f}")
        1.0000

    Source: Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere", 2020, https://arxiv.org/abs/2005.10242
    """
    op = "alignment"
    sharing = Sharing(gather_distributed, process_group, check)

    def distances() -> Tensor:
        empty = are_many(sharing)
        _check_rows(x, "x", op, empty=empty)
        _check_rows(y, "y", op, empty=empty)
        _check_alike(x, y, op)
        if isinstance(alpha, bool) or not isinstance(alpha, Real):
            kind = type(alpha).__name__
            raise TypeError(f"sslkern::{op}: expected alpha to be a number, got {kind}")
        check_positive_number(alpha, "alpha", op)
        a, b = (normalize_rows(to_working_dtype(z)) for z in (x, y))
        squares = (a - b).square().sum(1)
        if alpha >= 2:
            return squares.pow(alpha / 2)
        agree = squares == 0  # where the slope of the power is infinite, or has no direction
        return squares.masked_fill(agree, 1).pow(alpha / 2).masked_fill(agree, 0)

    shards, options = {"x": x, "y": y}, {"alpha": alpha}
    rows, processes = rows_of_ranks(op, sharing, shards, options, distances)
    return rows.mean() if processes is None else reduce_rows(processes, rows, None, "mean")


def contrastive_accuracy(
    query: Tensor,
    key: Tensor,
    negatives: Tensor | None = None,
    *,
    topk: Sequence[int] = (1, 5),
    in_batch: bool | None = None,
    target: Tensor | None = None,
    ids: Tensor | None = None,
    key_ids: Tensor | None = None,
    normalize: bool = True,
) -> Tensor:
    """How often the positive is among the k columns most similar to the query.

    The columns are those of `sslkern.info_nce_loss` for the same arguments. One stream over them
    serves every k; no N x M matrix is stored. A column as similar as the positive does not count
    against it, one that cannot be compared (NaN) does.

    Args:
        query: Queries (N, D), float64, float32, bfloat16 or float16.
        key: Keys (M, D), of the dtype of ``query``; row i is the positive of query i unless
            ``target`` says otherwise.
        negatives: More columns (K, D), read in place.
        topk: The numbers k, positive.
        in_batch: Whether the keys of other rows are columns too. By default they are exactly when
            there are no ``negatives``.
        target: Index of the positive among the columns for each query, (N,) int64.
        ids: Identity of each query, (N,) int64: columns of the same identity, other than the
            target, do not count.
        key_ids: Identity of each column, (columns,) int64; with negatives alone, of each negative.
            By default ``ids`` where the columns are the keys.
        normalize: Compare by cosine; otherwise by scalar product.

    Returns:
        Shares in [0, 1], (len(topk),) float64, without a gradient.

    Raises:
        ValueError: For a wrong shape, device, value or combination of options.
        TypeError: For a wrong dtype or layout.

    Example:
        >>> import torch, sslkern
        >>> query = torch.eye(4)
        >>> sslkern.contrastive_accuracy(query, query.roll(1, 0), topk=(1, 4)).tolist()
        [0.0, 1.0]

        The two views of NT-Xent, where a row is no candidate for itself:

        >>> z, row = torch.cat([query, query]), torch.arange(8)
        >>> sslkern.contrastive_accuracy(z, z, target=row.roll(4), ids=row).tolist()
        [1.0, 1.0]

    Equals: `sslkern.reference.contrastive_accuracy`.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
    2020, https://arxiv.org/abs/2002.05709, whose code logs it.
    """
    op = "info_nce"
    if not topk or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in topk):
        raise ValueError(f"sslkern::{op}: expected topk to be positive integers, got {topk!r}")
    rank = positive_rank(
        query,
        key,
        negatives,
        in_batch=in_batch,
        target=target,
        ids=ids,
        key_ids=key_ids,
        normalize=normalize,
    )
    return torch.stack([(rank < k).double().mean() for k in topk])


def rankme(z: Tensor) -> Tensor:
    r"""Effective rank of the embeddings, the exponential of the entropy of their spectrum.

    .. math:: \exp\Bigl(-\sum_k p_k \log p_k\Bigr), \quad
              p_k = \frac{\sigma_k(Z)}{\sum_j \sigma_j(Z)} + 10^{-7}

    with the singular values of the matrix as it is: neither centred nor scaled. It is 1 where all
    rows lie on one line, which is collapse, and min(N, K) where no direction is preferred. The
    number depends on N until N is many times K; the paper takes 25600 embeddings.

    Args:
        z: Embeddings (N, K), float64, float32, bfloat16 or float16. May require grad.

    Returns:
        A scalar; float64 for float64 inputs, else float32. A matrix of zeros gives 1.

    Raises:
        ValueError: For a wrong shape, or values that are not finite.
        TypeError: For a wrong dtype.

    Example:
        >>> import torch, sslkern
        >>> print(f"{sslkern.rankme(torch.eye(8)).item():.3f}")
        8.000
        >>> print(f"{sslkern.rankme(torch.ones(8, 4)).item():.3f}")
        1.000

    Source: Garrido, Balestriero, Najman, LeCun, "RankMe: Assessing the Downstream Performance of
    Pretrained Self-Supervised Representations by Their Rank", 2023,
    https://arxiv.org/abs/2210.02885
    """
    _check_rows(z, "z", "rankme")
    _check_finite(z, "z", "rankme")
    sigma: Tensor = torch.linalg.svdvals(to_working_dtype(z))
    p = sigma / sigma.sum().clamp_min(torch.finfo(sigma.dtype).tiny) + _RANK_EPS
    entropy = -(p * p.log()).sum()
    return entropy.exp()


def _check_rows(z: Tensor, name: str, op: str, *, empty: bool = False) -> None:
    """Reject what is no floating matrix with at least one row, or none, and one column."""
    check_tensor(z, name, op)
    if z.dim() != 2 or 0 in (z.shape[1:] if empty else z.shape):
        raise ValueError(
            f"sslkern::{op}: expected {name} to be a matrix with no empty dimension, "
            f"got shape {tuple(z.shape)}"
        )
    if not z.is_floating_point():
        raise TypeError(
            f"sslkern::{op}: expected {name} to be of dtype torch.float64, torch.float32, "
            f"torch.bfloat16 or torch.float16, got {z.dtype}"
        )


def _check_alike(x: Tensor, y: Tensor, op: str) -> None:
    check_same_device(y, "y", x, "x", op)
    if y.shape != x.shape:
        raise ValueError(
            f"sslkern::{op}: expected y to be of the shape of x, {tuple(x.shape)}, "
            f"got shape {tuple(y.shape)}"
        )
    if y.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(
            f"sslkern::{op}: expected y to be of the dtype of x, {x.dtype}, got {y.dtype}"
        )


def _check_finite(z: Tensor, name: str, op: str) -> None:
    """Reject NaN and infinity on the CPU, where a decomposition fails on them in other words."""
    if torch.compiler.is_compiling() or z.device.type != "cpu":
        return
    finite = z.isfinite()
    if not bool(finite.all()):
        raise ValueError(
            f"sslkern::{op}: expected {name} to be finite, got {z.detach()[~finite][0].item()}"
        )
