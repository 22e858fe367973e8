"""The public classes of pytorch-metric-learning before and after its patch."""

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
from sklearn.datasets import load_digits
from torch import Tensor, nn

from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.integrations import patch_pytorch_metric_learning

try:
    losses: Any = peers.import_peer("pytorch-metric-learning", "pytorch_metric_learning.losses")
    distances: Any = peers.import_peer(
        "pytorch-metric-learning", "pytorch_metric_learning.distances"
    )
    miners: Any = peers.import_peer("pytorch-metric-learning", "pytorch_metric_learning.miners")
    reducers: Any = peers.import_peer("pytorch-metric-learning", "pytorch_metric_learning.reducers")
    regularizers: Any = peers.import_peer(
        "pytorch-metric-learning", "pytorch_metric_learning.regularizers"
    )
except UnavailableError as reason:
    pytest.skip(str(reason), allow_module_level=True)

CLASSES = ["NTXentLoss", "SupConLoss"]


def rows(batch: int, dims: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(batch, dims, generator=g, dtype=torch.float64).to(dtype)


def some_labels(batch: int) -> Tensor:
    """Classes of several sizes, one of them of one row."""
    return torch.arange(batch) % max(batch // 4, 2) * (torch.arange(batch) > 0) + 7


class OfLabels(nn.Module):
    """A loss of embeddings whose labels, and what else it takes, are held."""

    def __init__(self, loss: nn.Module, labels: Tensor | None = None, **more: Any) -> None:
        super().__init__()
        self.loss, self.labels, self.more = loss, labels, more

    def forward(self, embeddings: Tensor) -> Tensor:
        labels = some_labels(len(embeddings)) if self.labels is None else self.labels
        return self.loss(embeddings, labels, **self.more)


def of_labels(name: str, labels: Tensor | None = None, **options: Any) -> Callable[[], nn.Module]:
    return lambda: OfLabels(getattr(losses, name)(**options), labels)


# ---- the same numbers

LABELLED: dict[str, Callable[[], nn.Module]] = {
    "ntxent": of_labels("NTXentLoss", temperature=0.5),
    "ntxent, default": of_labels("NTXentLoss"),
    "ntxent, products": of_labels(
        "NTXentLoss",
        temperature=2.0,
        distance=distances.DotProductSimilarity(normalize_embeddings=False),
    ),
    "ntxent, unit products": of_labels("NTXentLoss", distance=distances.DotProductSimilarity()),
    "supcon": of_labels("SupConLoss"),
    "supcon, warm": of_labels("SupConLoss", temperature=1.0),
    "supcon, mean": of_labels("SupConLoss", reducer=reducers.MeanReducer()),
    "supcon, sum": of_labels("SupConLoss", reducer=reducers.SumReducer()),
    "supcon, per anchor": of_labels("SupConLoss", reducer=reducers.PerAnchorReducer()),
    "supcon, threshold": of_labels("SupConLoss", reducer=reducers.ThresholdReducer(low=0.5)),
    "supcon, regularizer": of_labels(
        "SupConLoss",
        embedding_regularizer=regularizers.LpRegularizer(),
        embedding_reg_weight=0.3,
    ),
}


@pytest.mark.parametrize(("batch", "dims"), [(4, 3), (13, 8), (40, 33)])
@pytest.mark.parametrize("case", LABELLED)
def test_numbers_stay(case: str, batch: int, dims: int) -> None:
    make, inputs = LABELLED[case], rows(batch, dims)
    assert_patch_keeps_numbers(patch_pytorch_metric_learning, make, inputs)
    with patch_pytorch_metric_learning():
        assert runs_ours(partial(make(), inputs))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", CLASSES)
def test_self_supervised_numbers_stay(name: str, symmetric: bool) -> None:
    def make() -> nn.Module:
        return losses.SelfSupervisedLoss(getattr(losses, name)(0.2), symmetric=symmetric)

    inputs = rows(9, 5), rows(9, 5, seed=1)
    assert_patch_keeps_numbers(patch_pytorch_metric_learning, make, *inputs)
    with patch_pytorch_metric_learning():
        assert runs_ours(partial(make(), *inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CLASSES)
def test_lower_dtypes_are_as_accurate(name: str, dtype: torch.dtype) -> None:
    make = of_labels(name, temperature=0.2)
    assert_patch_is_accurate(patch_pytorch_metric_learning, make, rows(24, 17, dtype))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
@pytest.mark.parametrize("name", CLASSES)
def test_labels_of_every_integer_dtype(name: str, dtype: torch.dtype) -> None:
    make = of_labels(name, some_labels(13).to(dtype))
    assert_patch_keeps_numbers(patch_pytorch_metric_learning, make, rows(13, 4))


@pytest.mark.parametrize("labels", [[3, 3, 3, 3], [0, 1, 2, 3], [5], [1, 2], [1, 1]], ids=str)
@pytest.mark.parametrize("name", CLASSES)
def test_without_positives_or_negatives_it_is_zero(name: str, labels: list[int]) -> None:
    """One class has no negatives, which for the library leaves no loss at all."""
    loss_fn, inputs = OfLabels(getattr(losses, name)(), torch.tensor(labels)), rows(len(labels), 3)
    expected = evaluate(loss_fn, inputs)
    with patch_pytorch_metric_learning():
        got = evaluate(loss_fn, inputs)
    for x, y in zip(got, expected, strict=True):
        assert x.shape == y.shape
        assert not x.any()
        assert not y.any()


def test_loss_beyond_the_smallest_number_goes_on() -> None:
    """The difference that the docstring names; the value in float64 is the judge."""
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    loss_fn = OfLabels(losses.NTXentLoss(temperature=0.02), torch.tensor([0, 0, 1]))
    theirs, exact = loss_fn(z), loss_fn(z.double())
    with patch_pytorch_metric_learning():
        ours = loss_fn(z)
    assert ours.item() == pytest.approx(exact.item(), rel=1e-6)
    assert theirs.item() < 0.95 * exact.item()


@pytest.mark.parametrize("case", ["ntxent", "supcon", "supcon, per anchor"])
def test_second_derivatives_stay(case: str) -> None:
    make = LABELLED[case]
    assert_second_derivative_stays(patch_pytorch_metric_learning, make, rows(9, 4))
    assert_graphs_are_kept_as_asked(patch_pytorch_metric_learning, make, rows(9, 4))


# ---- the same classes


@pytest.mark.parametrize("name", CLASSES)
def test_methods_come_back(name: str) -> None:
    cls = getattr(losses, name)
    assert_methods_come_back(patch_pytorch_metric_learning, cls, "compute_loss")
    assert "compute_loss" not in vars(cls)  # it is of the class that both extend


def test_modules_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = losses.SupConLoss.forward
    labelled = partial(forward, labels=some_labels(8))
    monkeypatch.setattr(
        losses.SupConLoss, "__call__", lambda self, z: labelled(self, z), raising=False
    )
    assert_modules_stay(patch_pytorch_metric_learning, losses.SupConLoss, rows(8, 3))


def test_other_losses_are_left_alone() -> None:
    with patch_pytorch_metric_learning():
        assert not runs_ours(partial(OfLabels(losses.ContrastiveLoss()), rows(8, 3)))


# ---- what ours does not serve


class _Sharper(losses.NTXentLoss):
    def _compute_loss(self, *args: Any) -> Any:
        found = super()._compute_loss(*args)
        found["loss"]["losses"] = found["loss"]["losses"] ** 2
        return found


def _mined(embeddings: Tensor) -> Tensor:
    labels = some_labels(len(embeddings))
    pairs = miners.MultiSimilarityMiner()(embeddings, labels)
    return losses.NTXentLoss()(embeddings, labels, pairs)


def _with_memory(embeddings: Tensor) -> Tensor:
    memory = losses.CrossBatchMemory(losses.NTXentLoss(), 3, memory_size=16)
    return memory(embeddings, some_labels(len(embeddings)))


def _against_others(embeddings: Tensor) -> Tensor:
    return losses.SupConLoss()(
        embeddings,
        some_labels(len(embeddings)),
        ref_emb=rows(6, 3, seed=5),
        ref_labels=some_labels(6),
    )


FALLBACKS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "distance": (
        of_labels("NTXentLoss", distance=distances.LpDistance())(),
        "another distance",
    ),
    "power": (
        of_labels("SupConLoss", distance=distances.CosineSimilarity(power=3))(),
        "a distance with a power",
    ),
    "norm": (
        of_labels("SupConLoss", distance=distances.CosineSimilarity(p=1))(),
        "a distance of another norm",
    ),
    "reducer": (
        of_labels("NTXentLoss", reducer=reducers.ThresholdReducer(low=1.0))(),
        "a reducer that needs the pairs",
    ),
    "statistics": (
        of_labels("SupConLoss", distance=distances.CosineSimilarity(collect_stats=True))(),
        "statistics of the distance",
    ),
    "miner": (_mined, "indices_tuple of a miner"),
    "memory": (_with_memory, "indices_tuple of a miner"),
    "reference": (_against_others, "a ref_emb"),
    "labels": (of_labels("SupConLoss", some_labels(12) / 2)(), "labels of another kind"),
    "subclass": (OfLabels(_Sharper()), "_compute_loss of a subclass"),
    "temperature": (of_labels("NTXentLoss", temperature=-1.0)(), "temperature to be positive"),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_falls_back_with_one_warning(case: str) -> None:
    call, reason = FALLBACKS[case]
    assert_falls_back(patch_pytorch_metric_learning, call, reason, rows(12, 3))


ERRORS: dict[str, Callable[[], Any]] = {
    "no labels": lambda: losses.NTXentLoss()(rows(4, 3)),
    "labels": lambda: losses.SupConLoss()(rows(4, 3), torch.zeros(3, dtype=torch.int64)),
    "shape": lambda: losses.SupConLoss()(rows(4, 3)[:, None], torch.tensor([0, 0, 1, 1])),
    "arguments": lambda: losses.NTXentLoss()(),
    "wrapped": lambda: losses.SelfSupervisedLoss(losses.ArcFaceLoss(3, 4)),
    "integers": lambda: losses.NTXentLoss()(
        torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([0, 0, 1])
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_those_of_the_library(case: str) -> None:
    assert_same_error(patch_pytorch_metric_learning, ERRORS[case])


# ---- training, as the library's examples do it


def _train() -> list[float]:
    torch.manual_seed(0)
    data, target = load_digits(return_X_y=True)
    images, labels = torch.tensor(data[:240]) / 16, torch.tensor(target[:240])
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)).double()
    loss_func = losses.SupConLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    found = []
    for _ in range(3):
        for batch in range(0, 240, 60):
            optimizer.zero_grad()
            embeddings = model(images[batch : batch + 60])
            loss = loss_func(embeddings, labels[batch : batch + 60])
            loss.backward()
            optimizer.step()
            found.append(loss.item())
    return found


def test_training_goes_the_same_way() -> None:
    assert_training_goes_the_same_way(patch_pytorch_metric_learning, _train)
