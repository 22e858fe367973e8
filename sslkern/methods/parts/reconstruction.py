"""What methods share that make images: the check of a decoder's output."""

from __future__ import annotations

from torch import Tensor, nn

from sslkern.ops._common import refuse


def decode(
    decoder: nn.Module, codes: Tensor, shape: tuple[int, ...], op: str, name: str = "decoder"
) -> Tensor:
    """What the decoder makes of codes (B, D).

    Args:
        decoder: Maps codes to (B, *shape).
        codes: Its input.
        shape: Of one output.
        op: Name of the method.
        name: Of the decoder among the method's arguments.

    Raises:
        ValueError: If it returns another shape.
    """
    made: Tensor = decoder(codes)
    expected = (len(codes), *shape)
    if made.shape != expected:
        refuse(op, name, f"a module that returns the shape {expected}", tuple(made.shape))
    return made
