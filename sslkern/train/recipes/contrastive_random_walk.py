"""Contrastive random walk on video."""

from sslkern.data import Video
from sslkern.methods import ContrastiveRandomWalk
from sslkern.train.correspondence import FrameEncoder, correspondence_recipe


def build(
    samples: Video, temperature: float, edge_dropout: float, projection_dim: int
) -> ContrastiveRandomWalk:
    encoder = FrameEncoder()
    return ContrastiveRandomWalk(
        encoder,
        encoder.map_dim,
        projection_dim=projection_dim,
        temperature=temperature,
        edge_dropout=edge_dropout,
    )


RECIPE = correspondence_recipe(
    "Contrastive random walk",
    build,
    options={"temperature": 0.07, "edge_dropout": 0.1, "projection_dim": 64},
)
