"""The floor of losses of queries against keys: their matrix products by torch, nothing between."""

from __future__ import annotations

import torch

from sslkern.bench.contenders import Contender, Problem, Step, working_dtype

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
