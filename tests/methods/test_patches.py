"""Patches, their positions, and the tokens made of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from sslkern.methods.parts.patches import (
    PatchEmbedding,
    patchify,
    random_blocks,
    random_patches,
    sincos_positions,
    unpatchify,
)


def images(batch: int = 3, shape: tuple[int, int, int] = (2, 4, 6)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, *shape, generator=generator, dtype=torch.float64)


def make(**options: Any) -> PatchEmbedding:
    torch.manual_seed(0)
    return PatchEmbedding((2, 4, 6), 2, 8, **options).double()


def test_patches_are_cut_row_by_row() -> None:
    x = images()
    patches = patchify(x, 2)
    assert patches.shape == (3, 6, 8)
    for place in range(6):
        row, column = divmod(place, 3)
        window = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(patches[:, place], window.flatten(1))


@pytest.mark.parametrize("size", [1, 2])
def test_unpatchify_is_the_inverse(size: int) -> None:
    assert torch.equal(unpatchify(patchify(images(), size), size, (2, 4, 6)), images())


def test_positions_are_sines_and_cosines_of_row_and_column() -> None:
    positions = sincos_positions((2, 3), 8)
    for place in range(6):
        expected = []
        for at in divmod(place, 3):
            angles = [at / 10_000 ** (i / 2) for i in range(2)]
            expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert positions[place].tolist() == pytest.approx(expected, abs=1e-12)


def test_positions_of_a_smaller_grid_lie_between_those_of_the_whole() -> None:
    """One patch over 3 x 3 is where the patch in their middle is."""
    middle = sincos_positions((3, 3), 8)[4]
    torch.testing.assert_close(sincos_positions((1, 1), 8, (3, 3))[0], middle)


def test_tokens_are_cls_and_patches_with_positions() -> None:
    embed = make()
    x = images()
    tokens = embed(x)
    expected = patchify(x, 2) @ embed.projection.weight.T + embed.projection.bias
    torch.testing.assert_close(tokens[:, 1:], expected + embed.positions)
    assert torch.equal(tokens[:, 0], embed.cls.expand(3, 8))


def test_kept_patches_have_their_own_positions() -> None:
    embed = make()
    keep = torch.tensor([[5, 0], [1, 2], [3, 4]])
    tokens, whole = embed(images(), keep=keep), embed(images())
    for row in range(3):
        assert torch.equal(tokens[row, 1:], whole[row, 1 + keep[row]])


def test_masked_patches_show_the_token_at_their_positions() -> None:
    embed = make(mask_token=True)
    mask = torch.rand(3, 6) < 0.5
    tokens, whole = embed(images(), mask=mask)[:, 1:], embed(images())[:, 1:]
    assert torch.equal(tokens[~mask], whole[~mask])
    torch.testing.assert_close(
        tokens[mask], (embed.mask_token + embed.positions).expand(3, 6, 8)[mask]
    )


def test_images_of_another_size_are_embedded() -> None:
    embed = make()
    tokens = embed(images(shape=(2, 2, 4)))
    assert tokens.shape == (3, 1 + 2, 8)
    x = images(shape=(2, 2, 4))
    expected = patchify(x, 2) @ embed.projection.weight.T + embed.projection.bias
    torch.testing.assert_close(tokens[:, 1:], expected + sincos_positions((1, 2), 8, (2, 3)))


def test_random_patches_are_distinct_and_equally_likely() -> None:
    torch.manual_seed(0)
    index = random_patches(4000, 6, 2, torch.device("cpu"))
    assert bool((index[:, 0] < index[:, 1]).all())
    shares = index.flatten().bincount(minlength=6) / 4000
    # Six standard deviations of a share of 1/3 among 4000.
    assert bool(((shares - 1 / 3).abs() < 6 * (2 / 9 / 4000) ** 0.5).all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (((1, 4, 5), 2, 8), "expected images to be of shape .* multiples of 2, got shape"),
        (((1, 4, 4), 0, 8), "expected size to be positive, got 0"),
        (((1, 4, 4), 2, 6), "expected dim to be a multiple of 4, got 6"),
    ],
)
def test_bad_sizes_are_refused(settings: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match="PatchEmbedding: " + message):
        PatchEmbedding(*settings)


def test_bad_tensors_are_refused() -> None:
    embed = make()
    with pytest.raises(ValueError, match="expected images to be of 2 channels, got 1"):
        embed(images(shape=(1, 4, 6)))
    with pytest.raises(ValueError, match=r"expected keep to be of shape \(3, M\), got shape \(2,"):
        embed(images(), keep=torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"expected mask to be bool of shape \(3, 6\)"):
        embed(images(), mask=torch.zeros(3, 6))
    with pytest.raises(ValueError, match="expected mask to be None where mask_token=False"):
        embed(images(), mask=torch.zeros(3, 6, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"expected patches to be of shape \(B, 6, 8\)"):
        unpatchify(torch.zeros(1, 5, 8), 2, (2, 4, 6))


def test_blocks_are_rectangles_of_about_the_asked_size() -> None:
    torch.manual_seed(0)
    blocks = random_blocks(500, (6, 8), (0.1, 0.4), torch.device("cpu")).view(500, 6, 8)
    for block in blocks:
        rows, columns = block.any(1), block.any(0)
        assert torch.equal(block, rows[:, None] & columns)
        for line in (rows, columns):
            places = line.nonzero().flatten()
            assert int(line.sum()) == int(places[-1] - places[0] + 1) > 0
    areas = blocks.sum((1, 2)) / 48
    assert 0.15 < float(areas.mean()) < 0.3
    assert len(areas.unique()) > 5


def test_whole_grid_is_a_block() -> None:
    assert bool(random_blocks(20, (1, 1), (1.0, 1.0), torch.device("cpu")).all())
