"""Floors: the matrix products of a loss by torch, and nothing between."""

from __future__ import annotations

import torch

from sslkern.bench.contenders import Contender, Problem, Size, Step, working_dtype

WORDS = {2: "two", 3: "three", 4: "four"}


def sgemm_floor(*, keys: int = 1, forward: int = 1, both: bool = True) -> Contender:
    """``forward`` times the similarities, and their gradient times the keys and the queries.

    Args:
        keys: Which of the case's inputs holds the keys; the first one holds the queries.
        forward: How often the similarities are computed.
        both: Whether the keys need a gradient as well.
    """
    count = forward + 1 + int(both)

    def prepare(problem: Problem) -> Step:
        query, key = (problem.inputs[i].to(working_dtype(problem.dtype)) for i in (0, keys))
        similarities = query.new_empty(len(query), len(key))
        grad_query, grad_key = torch.empty_like(query), torch.empty_like(key)

        def step() -> None:
            for _ in range(forward):
                torch.mm(query, key.t(), out=similarities)
            torch.mm(similarities, key, out=grad_query)
            if both:
                torch.mm(similarities.t(), query, out=grad_key)

        return step

    about = f"{WORDS[count]} products of queries, keys and their similarities: a floor"
    return Contender(f"{WORDS[count]} sgemm", about, prepare, matrices=1, is_floor=True)


def gram_flops(size: Size) -> int:
    """Operations of losses over the products of columns of two views, with their gradients.

    Each view, or both together, needs those of one side of the batch, whichever is the shorter,
    and of these with the views: 6 N D^2 or 6 N^2 D.
    """
    short, long = sorted((size.rows, size.dim))
    return 6 * short * short * long


def gram_floor() -> Contender:
    """As many products of two views as `gram_flops` counts: of their rows, or of their columns."""

    def prepare(problem: Problem) -> Step:
        x, y = (z.to(working_dtype(problem.dtype)) for z in problem.inputs[:2])
        if x.shape[1] < x.shape[0]:
            x, y = x.t(), y.t()
        products = x.new_empty(len(x), len(x))
        grad_x, grad_y = torch.empty_like(x), torch.empty_like(y)

        def step() -> None:
            torch.mm(x, y.t(), out=products)
            torch.mm(products, y, out=grad_x)
            torch.mm(products.t(), x, out=grad_y)

        return step

    about = "three products of views of the batch, on its shorter side: a floor"
    return Contender("three sgemm", about, prepare, is_floor=True)
