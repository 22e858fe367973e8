"""SeLa: labels in equal shares, by optimal transport over the whole training set."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslkern.methods.method import Method, check_views, encode
from sslkern.methods.parts.assignments import check_all_rows, labels_at, no_labels
from sslkern.ops._common import check_positive_number
from sslkern.ops._embeddings import check_count
from sslkern.ops.linear_cross_entropy import linear_cross_entropy
from sslkern.ops.sinkhorn import sinkhorn
from sslkern.reference._common import to_working_dtype

_OP = "SeLa"


class SeLa(Method):
    r"""Self-labeling: a classifier and its labels by turns minimize one cross entropy.

    .. math:: \ell_i = -\frac{1}{H} \sum_{h \le H} \log p_h(y_{hi} \mid x_i), \quad
              p_h = \mathrm{softmax}(W_h f(x) + b_h)

    The labels :math:`y_h` of all N samples are the largest elements of the plan that transports
    them in equal shares to the K labels with the cost :math:`-\log p_h` and the regularization
    :math:`1 / \lambda`, found by Sinkhorn-Knopp. `cluster` finds them, before the first epoch and
    as often as wanted afterwards (the paper: 100 times, at first more often). The H heads have
    labels of their own, which are part of the state.

    Unlike the paper's code, which begins with random labels, the first ones come from the encoder
    as it starts. Iterations stop by the tolerance as there, looked at after each one.

    Args:
        encoder: Maps images (B, ...) to features (B, feature_dim).
        feature_dim: Width F of the encoder's features.
        samples: Number N of samples of the training set.
        clusters: Number K of labels of each head.
        heads: H.
        sharpness: lambda.
        tolerance: Change of the samples' scaling below which the iterations stop.
        iterations: The most of them.

    Raises:
        ValueError: If a number is not positive.
        TypeError: If a size is no integer.

    Example:
        >>> import torch
        >>> from sslkern.methods import SeLa
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = SeLa(encoder, 32, samples=100, clusters=10, heads=2)
        >>> images = torch.rand(100, 1, 8, 8)
        >>> model.cluster(model.encoder(images))
        >>> index = torch.randperm(100)[:16]
        >>> model(images[index], index).backward()

    Source: Asano et al., "Self-labelling via simultaneous clustering and representation learning",
    2019, https://arxiv.org/abs/1911.05371
    """

    labels: Tensor
    """Of each sample for each head, (H, N) int64; -1 before `cluster`."""

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        samples: int,
        *,
        clusters: int = 3000,
        heads: int = 10,
        sharpness: float = 25.0,
        tolerance: float = 0.1,
        iterations: int = 1000,
    ) -> None:
        super().__init__()
        sizes = {"feature_dim": feature_dim, "samples": samples, "clusters": clusters}
        sizes |= {"heads": heads, "iterations": iterations}
        for name, value in sizes.items():
            check_count(value, name, _OP)
        check_positive_number(sharpness, "sharpness", _OP)
        check_positive_number(tolerance, "tolerance", _OP)
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.heads = nn.ModuleList(nn.Linear(feature_dim, clusters) for _ in range(heads))
        self.register_buffer("labels", no_labels(heads, samples))
        self.sharpness = sharpness
        self.tolerance = tolerance
        self.iterations = iterations

    def forward(self, images: Tensor, index: Tensor) -> Tensor:
        """Return the loss of a batch: the mean over heads and samples.

        Args:
            images: (B, ...).
            index: Which samples of the training set they are, (B,) int64.

        Returns:
            Scalar.

        Raises:
            ValueError: If there are no labels yet, the index is out of range or of another shape,
                there is one sample where a batch norm needs two, or the encoder returns something
                else than (B, feature_dim).
        """
        check_views([images], _OP, norms=[self.encoder], name="images")
        labels = labels_at(self.labels, index, len(images), _OP)
        features = encode(self.encoder, images, self.feature_dim, _OP)
        losses = [
            linear_cross_entropy(features, head.weight.to(features.dtype), target, bias=head.bias)
            for head, target in zip(self._linears(), labels, strict=True)
        ]
        return torch.stack(losses).mean()

    @torch.no_grad()
    def cluster(self, features: Tensor) -> None:
        """Label all samples anew.

        Args:
            features: Of all samples in the order of their indices, (N, F).

        Raises:
            ValueError: If the features are of another shape.
        """
        check_all_rows(features, self.labels.shape[1], self.feature_dim, _OP)
        for head, labels in zip(self._linears(), self.labels, strict=True):
            plan = sinkhorn(
                to_working_dtype(head(features)).log_softmax(1),
                1 / self.sharpness,
                self.iterations,
                tolerance=self.tolerance,
                hard=True,
            )
            labels.copy_(plan.argmax(1))

    def _linears(self) -> list[nn.Linear]:
        return [head for head in self.heads if isinstance(head, nn.Linear)]
