"""lightly's and open_clip's classes in several processes before and after their patches."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from open_clip_losses import open_clip_losses
from ranks import MOST, Ranks
from torch import Tensor
from torch.nn import functional as F

from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.integrations import (
    FallbackWarning,
    patch_lightly,
    patch_open_clip,
    patch_sentence_transformers,
)

ROWS = 3
DIMS = 5


def _rows(seed: int, count: int = ROWS) -> Tensor:
    """This rank's."""
    g = torch.Generator().manual_seed(100 * seed + dist.get_rank())
    return torch.randn(count, DIMS, generator=g, dtype=torch.float64)


def _results(loss: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss.sum(), inputs)]


def _both(make: Any, patch: Any, inputs: list[Tensor]) -> tuple[Any, Any, list[str]]:
    """Results without and with the patch, and why the library's own code ran."""
    leaves = [x.requires_grad_() for x in inputs]
    expected = _results(make()(*leaves), leaves)
    with warnings.catch_warnings(record=True) as caught, patch():
        warnings.simplefilter("always", FallbackWarning)
        got = _results(make()(*leaves), leaves)
    reasons = [str(w.message) for w in caught if issubclass(w.category, FallbackWarning)]
    return expected, got, reasons


def _assert_same(found: list[tuple[Any, Any, list[str]]]) -> None:
    for expected, got, reasons in found:
        assert not reasons
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def _assert_fell_back(found: list[tuple[Any, Any, list[str]]], reason: str) -> None:
    for expected, got, reasons in found:
        assert len(reasons) == 1
        assert reason in reasons[0]
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


# ---- lightly


def _lightly(group: dist.ProcessGroup, name: str, options: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "To copy construct from a tensor")
        losses: Any = peers.import_peer("lightly", "lightly.loss")
        scale = 0.25 if name == "SwaVLoss" else 1.0
        inputs = [scale * _rows(seed) for seed in (0, 1)]

        def make() -> Any:
            torch.manual_seed(0)  # of a memory bank
            loss = getattr(losses, name)(**options).double()
            return (lambda a, b: loss([a, b], [])) if name == "SwaVLoss" else loss

        return _both(make, patch_lightly, inputs)


@pytest.fixture
def _needs_lightly() -> None:
    try:
        peers.import_peer("lightly", "lightly.loss")
    except UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.mark.usefixtures("_needs_lightly")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("NTXentLoss", {"temperature": 0.3}),
        ("NTXentLoss", {"memory_bank_size": (16, DIMS)}),
        ("DCLLoss", {}),
        ("BarlowTwinsLoss", {}),
        ("VICRegLoss", {"nu_param": 2.0}),
        ("TiCoLoss", {}),
    ],
    ids=str,
)
def test_gathering_losses_of_lightly_stay(ranks: Ranks, name: str, options: dict[str, Any]) -> None:
    """Values of a rank where lightly has them, and gradients."""
    options = options | {"gather_distributed": True}
    found = ranks.run(MOST, _lightly, name, options)
    _assert_same(found)
    values = {round(expected[0].item(), 9) for expected, _, _ in found}
    assert (len(values) == 1) == (name in ("BarlowTwinsLoss", "TiCoLoss"))


@pytest.mark.usefixtures("_needs_lightly")
@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("DCLWLoss", {"gather_distributed": True}, "weight_fn over several processes"),
        ("SwaVLoss", {"sinkhorn_gather_distributed": True}, "over several processes"),
    ],
    ids=str,
)
def test_what_is_of_all_ranks_here_falls_back(
    ranks: Ranks, name: str, options: dict[str, Any], reason: str
) -> None:
    _assert_fell_back(ranks.run(MOST, _lightly, name, options), reason)


@pytest.mark.usefixtures("_needs_lightly")
def test_without_gathering_each_rank_has_its_own_loss(ranks: Ranks) -> None:
    _assert_same(ranks.run(MOST, _lightly, "NTXentLoss", {}))


def _uneven(group: dist.ProcessGroup) -> Any:
    losses: Any = peers.import_peer("lightly", "lightly.loss")
    inputs = [_rows(seed, 3 + dist.get_rank() % 2) for seed in (0, 1)]
    return _both(lambda: losses.BarlowTwinsLoss(gather_distributed=True), patch_lightly, inputs)


@pytest.mark.usefixtures("_needs_lightly")
def test_uneven_batches_fall_back_on_all_ranks(ranks: Ranks) -> None:
    """Lightly's Barlow Twins gives each rank the same weight, ours each row."""
    _assert_fell_back(ranks.run(MOST, _uneven), "batches of different sizes")


# ---- open_clip


def _open_clip(group: dist.ProcessGroup, name: str, options: dict[str, Any]) -> Any:
    cls = getattr(open_clip_losses(), name)
    image, text = (F.normalize(_rows(seed)) for seed in (0, 1))
    scale = torch.tensor(3.0, dtype=torch.float64)
    bias = torch.tensor(-2.0, dtype=torch.float64) if name == "SigLipLoss" else None

    def make() -> Any:
        loss = cls(rank=dist.get_rank(), world_size=dist.get_world_size(), **options)
        return lambda image, text, scale: loss(image, text, scale, bias)

    expected, got, reasons = _both(make, patch_open_clip, [image, text, scale])
    for results in (expected, got):  # a rank's part may differ, the mean that DDP takes may not
        dist.all_reduce(results[3])
    return expected, got, reasons


@pytest.fixture
def _needs_open_clip() -> None:
    open_clip_losses()


@pytest.mark.usefixtures("_needs_open_clip")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ClipLoss", {"gather_with_grad": True}),
        ("ClipLoss", {"gather_with_grad": True, "local_loss": True}),
        ("ClipLoss", {"gather_with_grad": True, "local_loss": True, "cache_labels": True}),
        *[("SigLipLoss", {"dist_impl": how}) for how in ("bidir", "shift", "reduce", "gather")],
    ],
    ids=str,
)
def test_losses_of_open_clip_stay(ranks: Ranks, name: str, options: dict[str, Any]) -> None:
    _assert_same(ranks.run(MOST, _open_clip, name, options))


@pytest.mark.usefixtures("_needs_open_clip")
@pytest.mark.parametrize("local", [False, True])
def test_clip_without_gradients_of_others_falls_back(ranks: Ranks, local: bool) -> None:
    found = ranks.run(MOST, _open_clip, "ClipLoss", {"local_loss": local})
    _assert_fell_back(found, "several processes without gather_with_grad")


# ---- sentence-transformers


def _ranking(group: dist.ProcessGroup, options: dict[str, Any], columns: int) -> Any:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    def make() -> Any:
        loss = MultipleNegativesRankingLoss(
            torch.nn.Identity(), gather_across_devices=True, **options
        )
        return lambda *embeddings: loss.compute_loss_from_embeddings(list(embeddings), None)

    return _both(make, patch_sentence_transformers, [_rows(seed) for seed in range(columns)])


BOTH = ("query_to_doc", "doc_to_query")


@pytest.mark.parametrize(
    "options",
    [{}, {"directions": BOTH}, {"directions": BOTH, "partition_mode": "per_direction"}],
    ids=str,
)
def test_ranking_loss_stays(ranks: Ranks, options: dict[str, Any]) -> None:
    pytest.importorskip("sentence_transformers")
    _assert_same(ranks.run(MOST, _ranking, options, 2))


def test_hard_negatives_of_several_ranks_fall_back(ranks: Ranks) -> None:
    pytest.importorskip("sentence_transformers")
    found = ranks.run(MOST, _ranking, {}, 3)
    _assert_fell_back(found, "hard negatives over several processes")
