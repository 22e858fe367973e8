"""Instance discrimination: each image is a class, with a row of a memory instead of weights."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.methods.method import Method, check_views, encode
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.instances import InstanceClassifier


class InstDisc(Method):
    r"""Non-parametric classification of each sample as itself (NPID).

    .. math:: P(i | z) = \frac{1}{Z} \exp(m_i \cdot z / \tau), \quad z = W f(x), \quad
              m_i \leftarrow \frac{\mu\,m_i + (1 - \mu)\,z}
                             {\lVert \mu\,m_i + (1 - \mu)\,z \rVert}

    with embeddings z of unit norm, and for each sample of the training set a row m of what z was
    when the sample was last seen. The loss is :math:`-\log P(i | z)` with Z the sum over all rows,
    or noise-contrastive estimation with K rows drawn at random, which costs no more for more
    samples:

    .. math:: \ell = -\log \frac{P(i | z)}{P(i | z) + K / n}
                     - \sum_{k=1}^{K} \log \frac{K / n}{P(n_k | z) + K / n}

    Z is then estimated once, from the first batch, and is part of the state, as in the paper. The
    rows change after the loss, in training mode; where the authors' code has an epsilon in the
    logarithms, there is none. The paper's proximal term, which holds z near its row, is left out,
    as in that code.

    Features that point about the same way for all samples fill the memory with one direction, which
    noise-contrastive estimation can move but hardly spreads: center them, for example by a batch
    norm at the encoder's end, or use the softmax.

    Args:
        encoder: Maps views (B, ...) to features (B, feature_dim).
        feature_dim: Width of the encoder's features.
        samples: Number n of samples in the training set.
        projection_dim: Width of the embeddings.
        negatives: K; 0 for the softmax over all rows.
        temperature: tau.
        momentum: mu, from 0 to 1.

    Raises:
        ValueError: If a size or the temperature is not positive, the number of negatives is
            negative or the momentum outside [0, 1].

    Example:
        >>> import torch
        >>> from sslkern.methods import InstDisc
        >>> encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32))
        >>> model = InstDisc(encoder, feature_dim=32, samples=1000, negatives=100)
        >>> images, index = torch.rand(16, 1, 8, 8), torch.arange(16)
        >>> model(images, index).backward()
        >>> model.instances.memory.rows.shape
        torch.Size([1000, 128])

    Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
    2018, https://arxiv.org/abs/1805.01978
    """

    def __init__(
        self,
        encoder: nn.Module,
        feature_dim: int,
        samples: int,
        *,
        projection_dim: int = 128,
        negatives: int = 4096,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.head = mlp([feature_dim, projection_dim])
        self.instances = InstanceClassifier(
            samples,
            projection_dim,
            "InstDisc",
            negatives=negatives,
            temperature=temperature,
            momentum=momentum,
        )

    def forward(self, view: Tensor, index: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            view: (B, ...); one view of each sample.
            index: Which samples of the training set these are, (B,) int64. Of one that is there
                twice the last embedding is remembered.

        Returns:
            Scalar.

        Raises:
            ValueError: If the view holds one sample where a batch norm needs two, the index does
                not fit, or the encoder returns something else than (B, feature_dim).
            TypeError: If the index is not int64.
        """
        check_views((view,), "InstDisc", norms=[self.encoder])
        z = self.head(encode(self.encoder, view, self.feature_dim, "InstDisc"))
        loss: Tensor = self.instances(index, z)[0]
        if self.training:
            self.instances.remember(index, z)
        return loss
