"""open_clip's public classes before and after `patch_open_clip`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from before_and_after import (
    assert_falls_back,
    assert_graphs_are_kept_as_asked,
    assert_methods_come_back,
    assert_modules_stay,
    assert_patch_is_accurate,
    assert_patch_keeps_numbers,
    assert_same_error,
    assert_second_derivative_stays,
    assert_training_goes_the_same_way,
    evaluate,
    runs_ours,
)
from open_clip_losses import open_clip_losses
from torch import Tensor, nn
from torch.nn import functional as F

from sslkern.integrations import patch_open_clip

CLASSES = ["ClipLoss", "SigLipLoss"]
BIAS = {"ClipLoss": None, "SigLipLoss": -3.0}


@pytest.fixture(scope="module")
def open_clip() -> Any:
    return open_clip_losses()


def features(batch: int, dims: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    shared, *noise = torch.randn(3, batch, dims, generator=g, dtype=torch.float64)
    scale = torch.tensor(12.0, dtype=torch.float64)
    return [*(F.normalize(shared + n).to(dtype) for n in noise), scale.to(dtype)]


class WithBias(nn.Module):
    """A loss with its bias held."""

    def __init__(self, loss: nn.Module, bias: float | Tensor | None) -> None:
        super().__init__()
        self.loss, self.bias = loss, bias

    def forward(self, image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        return self.loss(image, text, scale, self.bias)


def make(open_clip: Any, name: str) -> WithBias:
    return WithBias(getattr(open_clip, name)(), BIAS[name])


@pytest.mark.parametrize(("batch", "dims"), [(2, 3), (7, 5), (40, 33)])
@pytest.mark.parametrize("name", CLASSES)
def test_numbers_stay(open_clip: Any, name: str, batch: int, dims: int) -> None:
    inputs = features(batch, dims)
    assert_patch_keeps_numbers(patch_open_clip, partial(make, open_clip, name), *inputs)
    with patch_open_clip():
        assert runs_ours(partial(make(open_clip, name), *inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CLASSES)
def test_lower_dtypes_are_as_accurate(open_clip: Any, name: str, dtype: torch.dtype) -> None:
    inputs = features(40, 33, dtype)
    assert_patch_is_accurate(patch_open_clip, partial(make, open_clip, name), *inputs)


def test_scale_in_float32_goes_with_half_features(open_clip: Any) -> None:
    image, text, _ = features(9, 5, torch.bfloat16)
    scale = torch.tensor(12.0)
    expected = open_clip.ClipLoss()(image, text, scale)
    with patch_open_clip():
        got = open_clip.ClipLoss()(image, text, scale)
    assert got.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(got, expected, rtol=3e-2, atol=0)


def test_bias_of_clip_changes_nothing(open_clip: Any) -> None:
    inputs = features(6, 5)
    bias = torch.tensor(-2.0, dtype=torch.float64)

    def call(image: Tensor, text: Tensor, bias: Tensor) -> Tensor:
        return open_clip.ClipLoss()(image, text, inputs[2], bias)

    expected = evaluate(call, *inputs[:2], bias)
    with patch_open_clip():
        got = evaluate(call, *inputs[:2], bias)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CLASSES)
def test_output_may_be_a_dictionary(open_clip: Any, name: str) -> None:
    loss, inputs = getattr(open_clip, name)(), features(6, 5)
    expected = loss(*inputs, logit_bias=BIAS[name], output_dict=True)
    with patch_open_clip():
        got = loss(*inputs, logit_bias=BIAS[name], output_dict=True)
    assert list(got) == ["contrastive_loss"]
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=0)


def test_labels_are_cached(open_clip: Any) -> None:
    cached = []
    for patched in (False, True):
        loss = open_clip.ClipLoss(cache_labels=True)
        patch = patch_open_clip() if patched else None
        loss(*features(6, 5))
        cached.append((loss.prev_num_logits, {k: v.tolist() for k, v in loss.labels.items()}))
        if patch is not None:
            patch.unpatch()
    assert cached[0] == cached[1]
    assert cached[0][0] == 6


@pytest.mark.parametrize("name", CLASSES)
def test_methods_come_back(open_clip: Any, name: str) -> None:
    assert_methods_come_back(patch_open_clip, getattr(open_clip, name), "forward")


def test_modules_stay(open_clip: Any) -> None:
    assert_modules_stay(patch_open_clip, open_clip.ClipLoss, *features(6, 5))


def test_coca_is_made_of_clip(open_clip: Any) -> None:
    logits = torch.zeros(6, 3, 8, dtype=torch.float64)
    words = torch.ones(6, 3, dtype=torch.int64)

    def call(*inputs: Tensor) -> Tensor:
        coca = open_clip.CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=0.5)
        return sum(coca(*inputs[:2], logits, words, inputs[2]))

    expected = evaluate(call, *features(6, 5))
    with patch_open_clip():
        assert runs_ours(partial(call, *features(6, 5)))
        torch.testing.assert_close(evaluate(call, *features(6, 5)), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CLASSES)
def test_second_derivatives_stay(open_clip: Any, name: str) -> None:
    """That of the scale, too."""
    loss = partial(make, open_clip, name)
    assert_second_derivative_stays(patch_open_clip, loss, *features(6, 5))
    assert_graphs_are_kept_as_asked(patch_open_clip, loss, *features(6, 5))


# ---- what ours does not serve


def _fallbacks(open_clip: Any) -> dict[str, tuple[Callable[..., Tensor], str]]:
    class Halved(open_clip.ClipLoss):
        def get_logits(self, *args: Any, **kwargs: Any) -> Any:
            return tuple(x / 2 for x in super().get_logits(*args, **kwargs))

    column_bias = torch.arange(6.0, dtype=torch.float64)
    return {
        "subclass": (Halved(), "get_logits of a subclass"),
        "bias": (
            WithBias(open_clip.SigLipLoss(), column_bias),
            "a logit_bias of several elements",
        ),
        "scale": (
            lambda a, b, s: open_clip.ClipLoss()(a, b, -s),
            "logit_scale to be positive",
        ),
    }


@pytest.mark.parametrize("case", ["subclass", "bias", "scale"])
def test_falls_back_with_one_warning(open_clip: Any, case: str) -> None:
    call, reason = _fallbacks(open_clip)[case]
    assert_falls_back(patch_open_clip, call, reason, *features(6, 5))


def _errors(open_clip: Any) -> dict[str, Callable[[], Any]]:
    image, text, scale = features(6, 5)
    return {
        "construction": lambda: open_clip.SigLipLoss(dist_impl="mail"),
        "arguments": lambda: open_clip.SigLipLoss()(image, text, scale),
        "batch": lambda: open_clip.ClipLoss()(image, text[:4], scale),
        "width": lambda: open_clip.ClipLoss()(image, text[:, :4], scale),
        "dtype": lambda: open_clip.ClipLoss()(image, text.float(), scale),
        "no tensor": lambda: open_clip.ClipLoss()("image", text, scale),
        "processes": lambda: open_clip.ClipLoss(gather_with_grad=True, world_size=2)(
            image, text, scale
        ),
    }


CALLS = ["construction", "arguments", "batch", "width", "dtype", "no tensor", "processes"]


@pytest.mark.parametrize("case", CALLS)
def test_errors_are_those_of_open_clip(open_clip: Any, case: str) -> None:
    assert_same_error(patch_open_clip, _errors(open_clip)[case])


# ---- training, as open_clip does it


class _Clip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.visual, self.text = nn.Linear(12, 8), nn.Embedding(20, 8)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        return {
            "image_features": F.normalize(self.visual(image), dim=-1),
            "text_features": F.normalize(self.text(text).mean(1), dim=-1),
            "logit_scale": self.logit_scale.exp(),
        }


def _train(open_clip: Any) -> list[float]:
    torch.manual_seed(0)
    model = _Clip().double()
    loss_fn = open_clip.ClipLoss(cache_labels=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    texts = torch.randint(20, (32, 4))
    images = torch.randn(32, 12, dtype=torch.float64)
    found = []
    for _ in range(8):
        losses = loss_fn(**model(images, texts), output_dict=True)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        found.append(total.item())
    return found


def test_training_goes_the_same_way(open_clip: Any) -> None:
    assert_training_goes_the_same_way(patch_open_clip, partial(_train, open_clip))
