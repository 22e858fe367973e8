"""DetCo beside its formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steps import check_steps, follow, unit
from torch import Tensor, nn

from sslkern.methods import DetCo

QUEUE, BATCH, PATCHES, DIMS, WEIGHTS = 14, 6, 3, (4, 6), (0.3, 1.0)


class Levels(nn.Module):
    """Means over the pixels after each of two convolutions of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, DIMS[0], 1)
        self.norm = nn.BatchNorm2d(DIMS[0])
        self.second = nn.Conv2d(DIMS[0], DIMS[1], 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        first = self.norm(self.first(images)).relu()
        return [first.mean((2, 3)), self.second(first).mean((2, 3))]


def make(**options: Any) -> DetCo:
    torch.manual_seed(0)
    settings = {
        "patches": PATCHES,
        "projection_dim": 5,
        "queue_size": QUEUE,
        "momentum": 0.9,
        "weights": WEIGHTS,
        **options,
    }
    return DetCo(Levels(), settings.pop("feature_dims", DIMS), **settings).double()


def batches(steps: int = 3) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, dtype=torch.float64, generator=generator)

    view, patches = (BATCH, 1, 4, 4), (BATCH, PATCHES, 1, 2, 2)
    return [(draw(*view), draw(*view), draw(*patches), draw(*patches)) for _ in range(steps)]


def project(modules: nn.Module, view: Tensor, patches: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    encoder, heads, patch_heads = modules
    whole = [head(x) for head, x in zip(heads, encoder(view), strict=True)]
    parts = encoder(patches.reshape(-1, 1, 2, 2))
    joined = [
        torch.stack([x[b * PATCHES : (b + 1) * PATCHES].reshape(-1) for b in range(BATCH)])
        for x in parts
    ]
    return whole, [head(x) for head, x in zip(patch_heads, joined, strict=True)]


def contrast(query: Tensor, key: Tensor, queue: nn.Module) -> Tensor:
    query = unit(query)
    positive = (query * key).sum(1, keepdim=True)
    logits = torch.cat([positive, query @ unit(queue.rows).T], 1) / 0.2
    return (logits.logsumexp(1) - logits[:, 0]).mean()


def plain_loss(m: DetCo, view: Tensor, view_key: Tensor, patches: Tensor, patches_key: Tensor):
    g, l = project(nn.ModuleList([m.encoder, m.heads, m.patch_heads]), view, patches)  # noqa: E741
    with torch.no_grad():
        g_key, l_key = (
            [unit(x) for x in kind] for kind in project(m.teacher.module, view_key, patches_key)
        )
    loss = 0.0
    for i, (weight, level) in enumerate(zip(WEIGHTS, m.levels, strict=True)):
        loss = loss + weight * (
            contrast(g[i], g_key[i], level.images)
            + contrast(l[i], l_key[i], level.patches)
            + contrast(l[i], g_key[i], level.images)
        )
        for queue, rows in ((level.images, g_key[i]), (level.patches, l_key[i])):
            for row in rows:
                queue.rows[int(queue.position)] = row
                queue.position.copy_((queue.position + 1) % QUEUE)
    return loss


def plain_update(m: DetCo, progress: float) -> None:
    follow(m.teacher.module, nn.ModuleList([m.encoder, m.heads, m.patch_heads]), 0.9)


def test_steps_equal_the_formula() -> None:
    check_steps(make(), plain_loss, batches(), plain_update)


def test_equal_projections_leave_the_log_of_the_number_of_columns() -> None:
    model = make()
    for name, parameter in model.named_parameters():
        if "heads" in name or "teacher.module.1" in name or "teacher.module.2" in name:
            nn.init.constant_(parameter, float(name.endswith("bias")))
    for level in model.levels:
        level.images.rows.fill_(1.0)
        level.patches.rows.fill_(1.0)
    expected = 3 * sum(WEIGHTS) * math.log(QUEUE + 1)
    torch.testing.assert_close(model(*batches()[0]).item(), expected, rtol=1e-12, atol=0)


def test_order_of_the_patches_matters() -> None:
    model = make().eval()
    view, view_key, patches, patches_key = batches()[0]
    loss = model(view, view_key, patches, patches_key)
    assert not torch.isclose(model(view, view_key, patches.flip(1), patches_key), loss)


def test_teacher_gets_no_gradient() -> None:
    model = make()
    model(*batches()[0]).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    assert all(p.grad is not None for p in model.trainable())


def test_evaluation_remembers_nothing() -> None:
    model = make().eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model(*batches()[0])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_size": 0}, "expected size to be positive, got 0"),
        ({"patches": 0}, "DetCo: expected patches to be positive, got 0"),
        ({"momentum": 1.5}, r"expected momentum to be from 0 to 1, got 1\.5"),
        ({"temperature": 0.0}, "DetCo: expected temperature to be positive"),
        ({"weights": (1.0,)}, r"DetCo: expected weights to be one for each of the 2 levels"),
        ({"weights": (1.0, -1.0)}, "DetCo: expected weights to be finite and not negative"),
        ({"feature_dims": ()}, "DetCo: expected feature_dims to be at least one width, got none"),
        ({"feature_dims": (4, 0)}, "DetCo: expected feature_dims to be positive, got 0"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_inputs_that_do_not_fit_are_refused() -> None:
    view, view_key, patches, patches_key = batches()[0]
    with pytest.raises(ValueError, match=r"expected patches_query to be of shape \(6, 3, ...\)"):
        make()(view, view_key, patches[:, :2], patches_key)
    with pytest.raises(ValueError, match=r"expected patches_key to be of the shape of"):
        make()(view, view_key, patches, patches_key[..., :1])
    with pytest.raises(ValueError, match=r"expected view 2 .* \(6, 1, 4, 4\)"):
        make()(view, view_key[..., :3], patches, patches_key)
    with pytest.raises(ValueError, match="at least 2 samples, which batch normalization needs"):
        make()(view[:1], view_key[:1], patches[:1], patches_key[:1])
    with pytest.raises(ValueError, match=r"list of shapes \[\(6, 4\), \(6, 7\)\], got \[\(6, 4\)"):
        make(feature_dims=(4, 7))(view, view_key, patches, patches_key)
