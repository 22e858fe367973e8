"""A causal language model of Python's reference."""

import torch

from sslkern.data import Text
from sslkern.methods import CausalLM
from sslkern.train.language import TextEncoder
from sslkern.train.recipe import Evidence, Measures, Recipe
from sslkern.train.texts import rows, unigram


def build(samples: Text, dim: int, depth: int) -> CausalLM:
    length = samples.tokens.shape[1]
    return CausalLM(TextEncoder(dim, depth), len(samples.vocabulary), dim, length=length)


def measure(model: CausalLM, train: Text, test: Text, generator: torch.Generator) -> Measures:
    return {"log_perplexity": model(test.tokens).item()}


RECIPE = Recipe(
    "causal language model",
    data=("text",),
    build=build,
    batch=rows,
    measure=measure,
    evidence=Evidence("log_perplexity", 2.5, higher=False),
    options={"dim": 64, "depth": 1},
    baselines={"unigram": unigram},
    quick=5,
    batch_size=16,
    lr=6e-3,
)
