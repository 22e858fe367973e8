"""Images and texts as rows of one space: what CLIP and SigLIP share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.methods.method import Method, check_views, encode
from sslkern.ops._common import refuse
from sslkern.ops._embeddings import check_count


class DualEncoder(Method):
    r"""An encoder of images and one of texts, each with a linear map into the same space.

    .. math:: x_i = \frac{W_x f(\mathrm{image}_i)}{\lVert W_x f(\mathrm{image}_i) \rVert}, \quad
              t_i = \frac{W_t g(\mathrm{text}_i)}{\lVert W_t g(\mathrm{text}_i) \rVert}

    Args:
        encoder: Maps images (B, ...) to features (B, feature_dim).
        text_encoder: Maps texts (B, ...) to features (B, text_dim).
        feature_dim: Width of the image encoder's features.
        text_dim: Width of the text encoder's features.
        projection_dim: Width D of the common space.

    Raises:
        ValueError: If a width is not positive.
        TypeError: If a width is no integer.
    """

    def __init__(
        self,
        encoder: nn.Module,
        text_encoder: nn.Module,
        feature_dim: int,
        text_dim: int,
        projection_dim: int,
    ) -> None:
        super().__init__()
        self.op = type(self).__name__
        for name, count in (
            ("feature_dim", feature_dim),
            ("text_dim", text_dim),
            ("projection_dim", projection_dim),
        ):
            check_count(count, name, self.op)
        self.encoder = encoder
        self.text_encoder = text_encoder
        self.projection = nn.Linear(feature_dim, projection_dim, bias=False)
        self.text_projection = nn.Linear(text_dim, projection_dim, bias=False)

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit rows (B, D) of images (B, ...).

        Raises:
            ValueError: If the encoder returns something else than (B, feature_dim).
        """
        width = self.projection.in_features
        return F.normalize(self.projection(encode(self.encoder, images, width, self.op)))

    def embed_texts(self, texts: Tensor) -> Tensor:
        """Unit rows (B, D) of texts (B, ...).

        Raises:
            ValueError: If the text encoder returns something else than (B, text_dim).
        """
        width = self.text_projection.in_features
        return F.normalize(self.text_projection(encode(self.text_encoder, texts, width, self.op)))

    def embed_pairs(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Unit rows of images and of as many texts.

        Raises:
            ValueError: If there is not one text for each image, or one pair where a batch norm
                needs two, or an encoder returns another shape.
        """
        check_views([images], self.op, norms=[self.encoder, self.text_encoder], name="images")
        if texts.dim() == 0 or len(texts) != len(images):
            got = f"shape {tuple(texts.shape)}"
            refuse(self.op, "texts", f"one for each of the {len(images)} images", got)
        return self.embed_images(images), self.embed_texts(texts)
