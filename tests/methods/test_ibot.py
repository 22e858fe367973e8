"""iBOT beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import Batch, check_steps, unit
from torch import Tensor, nn

from sslkern.methods import IBOT, DINOHead
from sslkern.methods.parts.patches import PatchEmbedding, most_in_block, patchify, random_blocks

PATCHES = 16


def make(**options: Any) -> IBOT:
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
    settings = {"out_dim": 7, "hidden_dim": 8, "bottleneck_dim": 5, "patch_size": 2}
    settings |= {"momentum": 0.9, "patch_weight": 1.5, "head_norm": "batch", **options}
    return IBOT(encoder, (1, 8, 8), 8, **settings).double()


def batches() -> list[Batch]:
    """Two large crops, and two small ones of a quarter of the area."""
    generator = torch.Generator().manual_seed(1)
    crops = torch.rand(3, 4, 6, 1, 8, 8, dtype=torch.float64, generator=generator)
    return [(a, b, c[..., :4, :4], d[..., :4, :4]) for a, b, c, d in crops]


def plain_head(head: DINOHead, rows: Tensor) -> Tensor:
    return unit(head.mlp(rows)) @ unit(head.last.weight).T


def plain_masks(m: IBOT, batch: int) -> Tensor:
    """A rectangle for about half of the images, drawn in the order of the method."""
    masked = torch.rand(batch, 1) < 0.5
    share, shape, top, left = torch.rand(4, batch, 1)
    mask = torch.zeros(batch, 4, 4, dtype=torch.bool)
    for i in range(batch):
        area, aspect = (0.1 + 0.4 * float(share[i])) * PATCHES, 0.3 ** (2 * float(shape[i]) - 1)
        height, width = (
            min(4, max(1, round(math.sqrt(side)))) for side in (area * aspect, area / aspect)
        )
        y, x = int(float(top[i]) * (5 - height)), int(float(left[i]) * (5 - width))
        mask[i, y : y + height, x : x + width] = bool(masked[i])
    return mask.flatten(1)


def plain_tokens(embed: PatchEmbedding, images: Tensor, mask: Tensor | None = None) -> Tensor:
    if len(images[0, 0]) == 4:
        return embed(images)  # whose positions the tests of the embedding write out
    patches = embed.projection(patchify(images, 2))
    if mask is not None:
        patches = torch.where(mask[..., None], embed.mask_token, patches)
    cls = embed.cls.expand(len(images), 1, -1)
    return torch.cat([cls, patches + embed.positions], 1)


def plain_loss(m: IBOT, *crops: Tensor) -> Tensor:
    large = torch.cat(crops[:2])
    mask = plain_masks(m, len(large))
    tokens = m.encoder(plain_tokens(m.embed, large, mask))
    small = m.encoder(plain_tokens(m.embed, torch.cat(crops[2:])))
    with torch.no_grad():
        seen = m.teacher.module.encoder(plain_tokens(m.teacher.module.embed, large))
        patches = plain_head(m.teacher.module.head, seen[:, 1:].flatten(0, 1)).view(12, PATCHES, 7)
        cls = plain_head(m.teacher.module.head, seen[:, 0])
        q = ((cls - m.targets.center.value) / m.targets.temperature).softmax(1).chunk(2)
        centered = patches - m.patch_targets.center.value
        q_patches = (centered / m.patch_targets.temperature).softmax(2)
    student = plain_head(m.head, torch.cat([tokens[:, 0], small[:, 0]])).chunk(4)
    log_p = [(s / 0.1).log_softmax(1) for s in student]
    pairs = [(t, s) for t in range(2) for s in range(4) if s != t]
    loss = sum(-(q[t] * log_p[s]).sum(1).mean() for t, s in pairs) / 6
    chosen = mask.clone()  # as the batch norm of the head sees them: nine patches of each view
    for row in chosen:
        row[(~row).nonzero()[: 9 - int(row.sum()), 0]] = True
    scores = torch.zeros(12, PATCHES, 7, dtype=torch.float64)
    assert chosen.sum() == 9 * 12
    scores[chosen] = plain_head(m.head, tokens[:, 1:][chosen])
    costs = -(q_patches * (scores / 0.1).log_softmax(2)).sum(2)
    for i in range(12):
        if mask[i].any():
            loss = loss + 1.5 * costs[i, mask[i]].mean() / 12
    m.targets.center.value.lerp_(cls.mean(0, keepdim=True), 0.1)
    m.patch_targets.center.value.lerp_(patches.flatten(0, 1).mean(0, keepdim=True), 0.1)
    return loss


def plain_update(m: IBOT, progress: float) -> None:
    momentum = 1 - (1 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
    student = [p for part in (m.embed, m.encoder, m.head) for p in part.parameters()]
    for to, value in zip(m.teacher.module.parameters(), student, strict=True):
        to.mul_(momentum).add_(value, alpha=1 - momentum)
    for targets in (m.targets, m.patch_targets):
        targets.temperature.fill_(0.04 + 0.03 * min(1.0, progress / 0.5))


def test_steps_equal_the_formula() -> None:
    check_steps(make(warmup=0.5), plain_loss, batches(), plain_update)


def test_equal_scores_cost_the_logarithm_of_their_number() -> None:
    """Once for [CLS] and, where every view is masked, once more for the patches."""
    model = make(mask_probability=1.0)
    with torch.no_grad():
        for head in (model.head, model.teacher.module.head):
            head.last.weight[:] = head.last.weight[0].clone()
    loss = model(*batches()[0])
    torch.testing.assert_close(loss, 2.5 * torch.tensor(7.0).double().log())


def test_without_masks_it_is_dino_alone() -> None:
    models = [make(mask_probability=0.0, patch_weight=weight) for weight in (0.0, 10.0)]
    without, heavy = (model(*batches()[0]) for model in models)
    torch.testing.assert_close(without, heavy)


def test_share_of_masked_views() -> None:
    torch.manual_seed(0)
    masks = make(mask_probability=0.25).draw_masks(4000, torch.device("cpu"))
    share = float(masks.any(1).double().mean())
    assert abs(share - 0.25) < 6 * (0.25 * 0.75 / 4000) ** 0.5


@pytest.mark.parametrize(("grid", "ratio"), [((4, 4), 0.5), ((7, 5), 0.3), ((14, 14), 0.05)])
def test_no_block_has_more_patches_than_room_is_made_for(
    grid: tuple[int, int], ratio: float
) -> None:
    torch.manual_seed(0)
    most = most_in_block(grid, ratio)
    found = random_blocks(20000, grid, (ratio, ratio), torch.device("cpu")).sum(1).max()
    assert found <= most < grid[0] * grid[1]


def test_no_gradient_reaches_the_teacher() -> None:
    model = make(mask_probability=1.0)
    model(*batches()[0]).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.trainable())


def test_evaluation_remembers_nothing() -> None:
    model = make().eval()
    model(*batches()[0])
    assert not model.targets.center.value.any()
    assert not model.patch_targets.center.value.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_probability": 1.5}, "IBOT: expected mask_probability to be from 0 to 1, got 1.5"),
        ({"mask_ratio": (0.1, 2.0)}, "IBOT: expected mask_ratio to be from 0 to 1, got 2.0"),
        ({"patch_weight": -1.0}, "IBOT: expected patch_weight to be finite and not negative"),
        ({"patch_temperature": 0.0}, "IBOT: expected teacher_temperature to be positive"),
        ({"large_crops": 0}, "IBOT: expected large_crops to be positive, got 0"),
        ({"momentum": 1.1}, "expected momentum to be from 0 to 1, got 1.1"),
        ({"patch_size": 3}, "expected images to be of shape .* multiples of 3"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_crops_that_do_not_fit_are_refused() -> None:
    model, view = make(), torch.rand(6, 1, 8, 8, dtype=torch.float64)
    with pytest.raises(ValueError, match="IBOT: expected crops to be at least 2, got 1"):
        model(view)
    with pytest.raises(ValueError, match="expected crop 2 to be of the batch size of crop 1, 6"):
        model(view, view[:5])
    with pytest.raises(ValueError, match=r"expected crop 1 to be of shape \(B, 1, 8, 8\), got"):
        model(view[..., :4, :4], view[..., :4, :4])
    with pytest.raises(ValueError, match=r"expected encoder .* \(12, 17, 8\), got \(12, 136\)"):
        IBOT(nn.Flatten(), (1, 8, 8), 8, patch_size=2, out_dim=7).double()(view, view)
