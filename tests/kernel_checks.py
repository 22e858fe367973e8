"""Comparisons of kernels with the float64 references, each in one dtype and size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch
from kernel_forms import MORE_FORMS, fragments
from torch import Generator, Tensor

import sslkern
import sslkern.ops._extension as extension
from sslkern import reference
from sslkern.cli import verify
from sslkern.ops.info_nce import positive_rank
from sslkern.reference._common import normalize_rows
from sslkern.verification import inputs
from sslkern.verification.forms import FORMS
from sslkern.verification.terms import Values

_evaluate = verify._evaluate


def agrees(
    setting: verify.Setting, size: tuple[int, int], references: dict[torch.dtype, Values]
) -> bool:
    """With the results of the references, which are computed once for all mutants."""

    def evaluate(function: verify.LossFn, x: Values, setting: verify.Setting) -> Values:
        if function is getattr(sslkern, setting.form.function):
            return _evaluate(function, x, setting)
        dtype = next(iter(x.values())).dtype
        if dtype not in references:
            references[dtype] = _evaluate(function, x, setting)
        return references[dtype]

    with mock.patch.multiple(verify, SIZES=(size,), _evaluate=evaluate):
        checks = verify.checks(setting, torch.device("cpu"))
        return all(check.agreement.passed for check in checks)


def diagnoses(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """What Sinkhorn's plan is said to be like."""
    scores = inputs.assigned(*size, Generator().manual_seed(0))["scores"].to(dtype)
    plan = reference.sinkhorn(scores.double())
    _, found = sslkern.sinkhorn(scores, return_diagnostics=True)
    entropy = torch.special.entr(plan).sum(1).mean()
    close = partial(torch.allclose, rtol=1e-4, atol=1e-4 / size[1])
    return close(found.usage, plan.mean(0)) and close(found.entropy, entropy)


def settles(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """Whether a tolerance that the third iteration just meets ends there, and one just missed not.

    Rows move by very different amounts: a sum that counts some of them twice is another one.
    """
    scores = inputs.assigned(*size, Generator().manual_seed(0))["scores"]
    scores = (scores * torch.linspace(0.05, 1, size[0])[:, None]).to(dtype)
    rows = scores.double()
    potentials = [reference.sinkhorn(rows, 0.05, t, return_potentials=True)[1] for t in (2, 3, 4)]
    (_, before), (third, f), (fourth, _) = potentials
    moved = float((torch.exp(before - f) - 1).abs().sum())
    near = 1e-9 if dtype == torch.float64 else 0.01
    for factor, expected in ((1 + near, third), (1 - near, fourth)):
        options = {"tolerance": moved * factor, "return_potentials": True}
        _, (found, _) = sslkern.sinkhorn(scores, 0.05, 4, **options)
        if not float((found - expected).abs().max()) < float((third - fourth).abs().max()) / 4:
            return False
    return True


def chooses(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """Hard assignments to prototypes all over a row, where none is nearly as likely as another."""
    scores = torch.randn(size, generator=Generator().manual_seed(0)).to(dtype)
    plan = reference.sinkhorn(scores.double(), 1.0, hard=True)
    return torch.equal(sslkern.sinkhorn(scores, 1.0, hard=True).double(), plan)


def _targets(n: int) -> list[Tensor]:
    """Columns that are not their rows' own: all over, and but for two rows of a tile the same one.

    Of these two, one row has the first column and one the last.
    """
    spread = (37 * torch.arange(n) + n // 8 * 4) % n
    narrow = torch.full_like(spread, n // 2)
    narrow[31::128], narrow[63::128] = 0, n - 1
    return [spread, narrow]


def _rank_errors(
    query: Tensor,
    key: Tensor,
    negatives: Tensor,
    normalize: bool = True,
    target_of: Sequence[Tensor] = (),
) -> list[float]:
    """Of rows: by how many columns each way of asking for ranks is wrong on average."""
    n = len(query)
    target_of = target_of or _targets(n)
    ids = torch.arange(n) // 2
    found = [
        positive_rank(query, key, negatives, in_batch=True, normalize=normalize),
        positive_rank(query, key, ids=ids, normalize=normalize),
        *(positive_rank(query, key, target=t, normalize=normalize) for t in target_of),
    ]
    rows = (z.double() for z in (query, key, negatives))
    q, k, more = (normalize_rows(z) if normalize else z for z in rows)
    dots = q @ torch.cat((k, more)).T
    larger = (dots > dots.diagonal()[:, None]).fill_diagonal_(False)
    own, among = ids[:, None] == ids, dots[:, :n]
    expected = [larger.sum(1), (larger[:, :n] & ~own).sum(1)]
    for t in target_of:
        than_target = (among > among.gather(1, t[:, None])).scatter(1, t[:, None], False)
        expected.append(than_target.sum(1))
    pairs = zip(found, expected, strict=True)
    return [float((f - e).abs().double().mean()) for f, e in pairs]


def ranks(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """How many columns are more similar than the positive, but for what rounding may turn."""
    x = inputs.with_negatives(*size, Generator().manual_seed(0))
    return max(_rank_errors(*(x[k].to(dtype) for k in ("query", "key", "negatives")))) < 0.5


def exact_ranks(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """The same of small whole numbers, whose products and sums no dtype rounds."""
    g = Generator().manual_seed(0)
    rows = (torch.randint(-4, 5, size, generator=g).to(dtype) for _ in range(3))
    return max(_rank_errors(*rows, normalize=False)) == 0


def close_ranks(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """The same of columns that float32 tells apart and tf32 does not: 2^-18 between their cosines.

    A row has all its length in eight dims, and so have those that are nearly as similar to it.
    """
    if dtype.itemsize < 4:
        return True
    g, (n, dim) = Generator().manual_seed(0), size
    runs = torch.arange(2 * n)[:, None] // 4 % min(4, dim // 8)  # all in each fragment's rows
    along = torch.randn(dim // 2, 2, generator=g, dtype=torch.float64)
    across = torch.stack((-along[:, 1], along[:, 0]), 1)  # at right angles, and as long
    u, v = (z.flatten() * (torch.arange(2 * (dim // 2)) // 8 == runs) for z in (along, across))
    cosine = 1 - torch.randperm(2 * n, generator=g)[:, None].double() * 2**-18
    columns = cosine * u + (1 - cosine**2).sqrt() * v
    rows = (z.to(dtype) for z in (u[:n], columns[:n], columns[n:]))
    targets = _targets_alike(runs[:n], g) if dtype == torch.float32 else ()
    return max(_rank_errors(*rows, target_of=targets)) == 0


def _targets_alike(runs: Tensor, g: Generator) -> list[Tensor]:
    """Of each row, a column of the same run in each of a warp's fragments."""
    near = [(runs == runs.T) & (fragments(len(runs)) == k) for k in range(4)]
    return [torch.multinomial(z.double(), 1, generator=g).flatten() for z in near]


def misses(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """Samples that no row of the table has."""
    x = inputs.table(*size, Generator().manual_seed(0))
    x["index"][::2, ::3] = -1
    logits = sslkern.sampled_logits(x["query"].to(dtype), x["table"].to(dtype), x["index"])
    return torch.equal(logits.isnan(), x["index"] < 0)


def exact_sums(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """Gradients of three rows that all samples are of: whole numbers, which no dtype rounds."""
    g, (n, dim) = Generator().manual_seed(0), size
    query = torch.randint(-1, 2, size, generator=g)
    index = torch.randint(3, (n, 70), generator=g)
    upstream = 2 * torch.randint(2, (n, 70), generator=g) - 1
    table = torch.zeros(3, dim, dtype=dtype, requires_grad=True)
    logits = sslkern.sampled_logits(query.to(dtype), table, index)
    (found,) = torch.autograd.grad(logits, table, upstream.to(logits.dtype))
    weight = torch.zeros(n, 3, dtype=torch.long).scatter_add(1, index, upstream)
    expected = weight.T @ query
    assert int(expected.abs().max()) <= 256  # bfloat16 has all of these
    return torch.equal(found.long(), expected)


def _gradient(function: verify.LossFn, x: Tensor, upstream: Tensor, **options: Any) -> Tensor:
    return _gradients(function, [x], upstream, **options)[0]


def _gradients(
    function: verify.LossFn, given: Sequence[Tensor], upstream: Tensor, **options: Any
) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in given]
    loss = function(*leaves, **options, reduction="none")
    return [x.double() for x in torch.autograd.grad(loss, leaves, upstream.to(loss.dtype))]


def units(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """Gradients of a loss whose last row counts for far more than the others."""
    small, large = (1e-2, 1e4) if dtype == torch.float16 else (1e-30, 1e20)
    x = inputs.vocabulary(*size, Generator().manual_seed(0))
    rows, table = x["input"].to(dtype), x["weight"][:5].to(dtype)
    target = torch.arange(size[0]) // (size[0] - 1)
    ones, last = torch.ones(size[0]), torch.full(size[:1], small)
    last[-1] = large
    for upstream, weight in ((last, torch.ones(5)), (ones, torch.tensor([small, large, 1, 1, 1]))):
        found, expected = (
            _gradient(f, z, upstream, weight=t, target=target, class_weight=weight.to(z.dtype))[-1]
            for f, z, t in (
                (sslkern.linear_cross_entropy, rows, table),
                (reference.linear_cross_entropy, rows.double(), table.double()),
            )
        )
        if not torch.allclose(found, expected, rtol=0.05, atol=0.05 * large):
            return False
    return True


def axes(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """Gradients of rows and classes that are along one of 32 axes each.

    A product that leaves out eight of the dims takes a row for a stranger to classes that are like
    it. Every fragment of a tile has rows and classes of every eight dims.
    """
    g, (n, dim) = Generator().manual_seed(0), size
    eight = torch.arange(n) % 8, torch.randint(8, (n,), generator=g)
    axis = (8 * z + torch.randint(4, (n,), generator=g) for z in eight)
    given = [4.0 * torch.eye(64, dim)[z] for z in axis]
    index = {"target": torch.randint(n, (n,), generator=g)}
    dense = {"target": torch.rand(n, n, generator=g).softmax(1)}
    agree = []
    for options in (index, index | {"label_smoothing": 0.1}, dense):
        found, expected = (
            _gradients(f, [z.to(t) for z in given], torch.ones(n), **options)
            for f, t in (
                (sslkern.linear_cross_entropy, dtype),
                (reference.linear_cross_entropy, torch.float64),
            )
        )
        agree += map(partial(torch.allclose, atol=0.1), found, expected)
    return all(agree)


def lifts(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """Gradients of one long row among short ones, whose length is in one element."""
    n, dim = size
    rows = torch.zeros(n, dim, dtype=dtype)
    rows[-1, 31] = 1
    few = rows[-1:].repeat(8, 1)
    options = {"logit_scale": torch.tensor(10.0), "logit_bias": torch.tensor(-10.0)}
    for image, text in ((rows, few), (few, rows.roll(-len(few), 0))):
        found, expected = (
            _gradient(f, x, torch.ones(len(x)), text_features=t, negative_only=True, **options)
            for f, x, t in (
                (sslkern.siglip_loss, image, text),
                (reference.siglip_loss, image.double(), text.double()),
            )
        )
        if not torch.allclose(found, expected, rtol=0.01, atol=1e-3):
            return False
    return True


def ranges(dtype: torch.dtype, size: tuple[int, int]) -> bool:
    """Gradients where one key or one pair is far from all others, further than float32 reaches."""
    n, dim = size
    for row, key in ((None, 383), (511, 383), (639, 383)):  # of the last lanes and warps
        query, keys = torch.zeros(n, dim), torch.zeros(n, dim)
        query[:, 0] = 1
        if row is None:
            keys[key, 0] = -200
        else:
            query[row, 1], keys[key, 1] = 200, 1
        found, expected = (
            _gradient(
                f,
                query.to(t),
                torch.ones(n),
                key=keys.to(t),
                temperature=1.0,
                symmetric=True,
                normalize=False,
            )
            for f, t in (
                (sslkern.info_nce_loss, dtype),
                (reference.info_nce_loss, torch.float64),
            )
        )
        if not torch.allclose(found, expected, rtol=0.01, atol=0.01):
            return False
    return True


Check = Callable[[torch.dtype, tuple[int, int]], bool]


def of_forms(*names: str) -> Check:
    """Whether the named forms agree with their references."""

    def check(dtype: torch.dtype, size: tuple[int, int]) -> bool:
        agree = [_form_agrees(name, dtype, size) for name in names]  # all, whatever one says
        return all(agree)

    check.__name__ = "; ".join(names)
    return check


def in_blocks(count: int, check: Check) -> Check:
    """With so many blocks sharing a row of tiles in all."""
    return _with(extension.C.set_column_blocks, count, check)


def in_parts(check: Check) -> Check:
    """With what grows with rows times columns in parts of one row of tiles."""
    return _with(extension.C.set_part_bytes, 1, check)


def _with(setting: Callable[..., None], value: int, check: Check) -> Check:
    def check_so(dtype: torch.dtype, size: tuple[int, int]) -> bool:
        setting(value)
        try:
            return check(dtype, size)
        finally:
            setting()

    check_so.__name__ = f"{check.__name__}, {setting.__name__}({value})"
    return check_so


def _form_agrees(name: str, dtype: torch.dtype, size: tuple[int, int]) -> bool:
    (form,) = (form for form in (*FORMS, *MORE_FORMS) if form.name == name)
    normalize = True if form.normalizes else None
    temperature = None if form.parameter is None else 0.1
    return agrees(verify.Setting(form, dtype, normalize, temperature), size, {})
