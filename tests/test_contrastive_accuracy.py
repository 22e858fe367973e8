"""The contrastive accuracy, by counting the columns above the positive."""

from __future__ import annotations

import pytest
import torch
from emulation import Emulation
from torch import Tensor

import sslkern

pytestmark = pytest.mark.usefixtures("backend")

OPERATOR = "info_nce"
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def normal(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def ranks(s: Tensor, target: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Columns that are larger than the target of each row, by a loop."""
    out = torch.zeros(len(s), dtype=torch.int64)
    for i, row in enumerate(s):
        keep = torch.ones(len(row), dtype=torch.bool) if allowed is None else allowed[i].clone()
        keep[target[i]] = False
        out[i] = (row[keep] > row[target[i]]).sum()
    return out


def shares(rank: Tensor, topk: tuple[int, ...] = (1, 5)) -> list[float]:
    return [(rank < k).double().mean().item() for k in topk]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(1, 3), (5, 2), (97, 16), (300, 33), (700, 128)])
def test_accuracy_counts_the_columns_above_the_positive(n: int, d: int, dtype: torch.dtype) -> None:
    query, noise = normal(n, d, seed=1), normal(n, d, seed=2)
    query, key = query.to(dtype), (query + noise).to(dtype)
    unit = [torch.nn.functional.normalize(z.double()) for z in (query, key)]
    expected = shares(ranks(unit[0] @ unit[1].T, torch.arange(n)))
    got = sslkern.contrastive_accuracy(query, key)
    # In float32 a near tie may fall either way.
    assert got.tolist() == pytest.approx(expected, abs=0 if dtype == torch.float64 else 2.1 / n)
    assert got.dtype == torch.float64


def test_accuracy_against_a_bank_alone_and_with_the_batch() -> None:
    query, key, bank = normal(50, 8, seed=1), normal(50, 8, seed=2), normal(400, 8, seed=3)
    key = query + 0.7 * key
    q, k, b = (torch.nn.functional.normalize(z) for z in (query, key, bank))
    own = (q * k).sum(1, keepdim=True)
    first = torch.zeros(50, dtype=torch.int64)
    alone = shares(ranks(torch.cat([own, q @ b.T], 1), first))
    assert sslkern.contrastive_accuracy(query, key, bank).tolist() == alone
    both = shares(ranks(torch.cat([q @ k.T, q @ b.T], 1), torch.arange(50)))
    assert sslkern.contrastive_accuracy(query, key, bank, in_batch=True).tolist() == both
    assert alone != both


def test_accuracy_leaves_out_columns_of_the_same_identity() -> None:
    z = normal(60, 6, seed=1)
    ids = torch.arange(60) % 7
    target = (torch.arange(60) + 7) % 60
    s = torch.nn.functional.normalize(z) @ torch.nn.functional.normalize(z).T
    expected = shares(ranks(s, target, ids[:, None] != ids[None, :]), (1, 3, 20))
    got = sslkern.contrastive_accuracy(z, z, target=target, ids=ids, topk=(1, 3, 20))
    assert got.tolist() == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_columns_do_not_count_against_the_positive(dtype: torch.dtype) -> None:
    """Collapsed embeddings: all columns are equal, to the bit."""
    n = 300 if Emulation.is_running else 500
    z = normal(1, 257).expand(n, 257).to(dtype)
    assert sslkern.contrastive_accuracy(z, z).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("n", "m"), [(7, 40), (300, 41), (97, 700)])
def test_accuracy_equals_its_reference(n: int, m: int) -> None:
    query, key, bank = normal(n, 24, seed=1), normal(m, 24, seed=2), normal(m, 24, seed=3)
    target = torch.randint(0, 2 * m, (n,), generator=torch.Generator().manual_seed(0))
    for normalize in (True, False):
        args = {"target": target, "in_batch": True, "normalize": normalize, "topk": (1, 10, m)}
        got = sslkern.contrastive_accuracy(query, key, bank, **args)
        assert got.equal(sslkern.reference.contrastive_accuracy(query, key, bank, **args))


def test_a_nan_is_never_a_hit() -> None:
    query = normal(40, 8)
    key = query.clone()
    key[3, 2] = torch.nan
    # Query 3 has a positive that cannot be compared, all others a column that cannot.
    assert sslkern.contrastive_accuracy(query, key, topk=(1, 2)).tolist() == [0.0, 39 / 40]


@pytest.mark.cpu_only
def test_accuracy_has_no_gradient_and_one_answer_for_any_number_of_threads() -> None:
    query, key = normal(600, 16, seed=1).requires_grad_(), normal(600, 16, seed=2)
    first = sslkern.contrastive_accuracy(query, key)
    assert not first.requires_grad
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert sslkern.contrastive_accuracy(query, key).equal(first)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.not_emulated
def test_accuracy_compiles_and_its_operator_passes_opcheck() -> None:
    query, key = normal(20, 8, seed=1), normal(20, 8, seed=2)
    compiled = torch.compile(sslkern.contrastive_accuracy, fullgraph=True, backend="aot_eager")
    assert compiled(query, key).equal(sslkern.contrastive_accuracy(query, key))
    op = torch.ops.sslkern.info_nce_rank.default
    torch.library.opcheck(op, (query, key, torch.arange(20), None, None, None, True))
    torch.library.opcheck(op, (query, key, None, torch.zeros(20), None, None, True))


@pytest.mark.parametrize(
    ("change", "error", "fragment"),
    [
        ({"topk": ()}, ValueError, "topk to be positive integers, got"),
        ({"topk": (0,)}, ValueError, "topk to be positive integers, got"),
        ({"topk": (True,)}, ValueError, "topk to be positive integers, got"),
        ({"key": torch.zeros(3, 4)}, ValueError, "one row for each of the 6 queries"),
        ({"key": torch.zeros(6, 5)}, ValueError, "key to be of shape"),
        ({"key": torch.zeros(6, 4).double()}, TypeError, "of the dtype of query"),
        ({"target": torch.full((6,), 6)}, ValueError, "target to be of values in .0, 6., got 6"),
        ({"target": torch.zeros(5).long()}, ValueError, "target to be of shape"),
        ({"ids": torch.zeros(5).long()}, ValueError, "ids to be of shape"),
        ({"negatives": torch.zeros(0, 4)}, ValueError, "negatives to be of shape"),
        ({"in_batch": False}, ValueError, "in_batch to be True without negatives"),
        ({"query": torch.zeros(6)}, ValueError, "query to be of shape"),
        ({"query": [1.0]}, TypeError, "query to be a tensor, got list"),
    ],
)
def test_accuracy_refuses_bad_input(
    change: dict[str, object], error: type[Exception], fragment: str
) -> None:
    args: dict[str, object] = {"query": torch.zeros(6, 4), "key": torch.zeros(6, 4)} | change
    with pytest.raises(error, match=fragment):
        sslkern.contrastive_accuracy(**args)
