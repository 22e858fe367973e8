"""word2vec on Python's reference."""

import torch
from torch import Tensor

from sslkern.data import Text
from sslkern.data.text import UNK
from sslkern.methods import Word2Vec
from sslkern.methods.word2vec import NOTHING, Objective
from sslkern.train.recipe import Evidence, Measures, Recipe
from sslkern.train.seeds import global_seed
from sslkern.train.windows import keep_probability, windows

WINDOW = 5


def counts(samples: Text) -> Tensor:
    """Of the known words in these texts."""
    found = torch.bincount(samples.tokens.flatten(), minlength=len(samples.vocabulary))
    found[UNK] = 0
    return found


def build(samples: Text, dim: int, objective: Objective, negatives: int) -> Word2Vec:
    return Word2Vec(counts(samples), dim, objective=objective, negatives=negatives)


def contexts(samples: Text, index: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    keep = keep_probability(samples.vocabulary.counts)
    keep[UNK] = 0.0
    return windows(samples.tokens[index], keep, WINDOW, generator)


def measure(model: Word2Vec, train: Text, test: Text, generator: torch.Generator) -> Measures:
    """On the test half: the loss, and how often a word's neighbour scores above another's.

    Both words of that comparison are as frequent, since the other is a neighbour of another word:
    knowing which words are frequent is worth nothing, and chance is 1/2.
    """
    center, context = contexts(test, torch.arange(len(test)), generator)
    with global_seed(0):
        loss = model(center, context).item()
    row, column = (context != NOTHING).nonzero().unbind(1)
    near = context[row, column]
    far = near[torch.randperm(len(near), generator=generator)]
    vector = model.encoder(center)[row]
    margin = (vector * (model.output[near] - model.output[far])).sum(1)
    ranking = (margin > 0).double().mean() + (margin == 0).double().mean() / 2
    return {"ranking": ranking.item(), "loss": loss}


RECIPE = Recipe(
    "word2vec",
    data=("text",),
    build=build,
    batch=contexts,
    measure=measure,
    evidence=Evidence("ranking", 0.1),
    options={"dim": 64, "objective": "skip_gram", "negatives": 5},
    quick=10,
    batch_size=16,
    lr=2e-2,
)
