"""What the recipes of XLM share: sentences of two languages, and how well words are predicted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sslkern.data import Bitext
from sslkern.data.text import MASK, PAD
from sslkern.methods import XLM
from sslkern.methods.parts.language import IGNORED
from sslkern.methods.xlm import Objective
from sslkern.train.language import TextEncoder
from sslkern.train.recipe import Evidence, Measures, Recipe
from sslkern.train.seeds import global_seed
from sslkern.train.texts import word_frequencies


def xlm_recipe(objective: Objective, evidence: Evidence, **settings: Any) -> Recipe:
    """A recipe of XLM.

    Args:
        objective: Of the method.
        evidence: As `Recipe.evidence`.
        settings: Other fields of `Recipe`, in place of those meant here.
    """

    def build(samples: Bitext, dim: int, depth: int, mask_rate: float) -> XLM:
        return XLM(
            TextEncoder(dim, depth),
            len(samples.vocabulary),
            dim,
            languages=len(samples.languages),
            objective=objective,
            mask_token=MASK,
            pad_token=PAD,
            length=samples.source.shape[1],
            mask_rate=mask_rate,
        )

    translated = objective == "tlm"
    common = {
        "data": ("bitext",),
        "batch": translations if translated else either_language,
        "measure": use_of_translations if translated else log_perplexity,
        "baselines": {"unigram": unigram_alone if translated else unigram},
        "options": {"dim": 64, "depth": 1, "mask_rate": 0.15},
        "batch_size": 16,
    }
    title = f"XLM ({objective.upper()})"
    return Recipe(title, build=build, evidence=evidence, **{**common, **settings})


def translations(
    samples: Bitext, index: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sentences with their translations, (B, 2, L), and their languages, (B, 2)."""
    tokens = torch.stack([samples.source[index], samples.target[index]], 1)
    return tokens, torch.arange(2).expand(len(index), 2)


def either_language(
    samples: Bitext, index: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sentences (B, L) of either language, drawn evenly, and their languages (B,)."""
    tokens, _ = translations(samples, index, generator)
    language = torch.randint(2, (len(index),), generator=generator)
    return tokens[torch.arange(len(index)), language], language


def log_perplexity(
    method: XLM, train: Bitext, test: Bitext, generator: torch.Generator
) -> Measures:
    """Mean loss of the words of the test half, always the same sentences and masks."""
    tokens, languages = either_language(test, torch.arange(len(test)), generator)
    with global_seed(0):
        return {"log_perplexity": method(tokens, languages).item()}


def use_of_translations(
    method: XLM, train: Bitext, test: Bitext, generator: torch.Generator
) -> Measures:
    """Mean loss of words that are hidden in the first language.

    Returns:
        log_perplexity: With the translation, in which nothing is hidden, beside them.
        alone: Without it.
        other: With the translation of another sentence.
        translation: What the translation is worth: the second less the first.
    """
    tokens, languages = translations(test, torch.arange(len(test)), generator)
    with global_seed(0):
        inputs, targets = method.mask(tokens)
    targets[:, 1] = IGNORED
    found = {
        name: method.masked_loss(torch.stack([inputs[:, 0], beside], 1), targets, languages).item()
        for name, beside in (
            ("log_perplexity", tokens[:, 1]),
            ("alone", torch.full_like(tokens[:, 1], PAD)),
            ("other", tokens[:, 1].roll(1, 0)),
        )
    }
    return found | {"translation": found["alone"] - found["log_perplexity"]}


def unigram(train: Bitext, test: Bitext, generator: torch.Generator) -> Measures:
    """Words of both languages by how frequent they are in the training half, one added to each."""
    seen, unseen = (torch.stack([half.source, half.target]) for half in (train, test))
    return word_frequencies(seen[seen != PAD], unseen[unseen != PAD], len(train.vocabulary))


def unigram_alone(train: Bitext, test: Bitext, generator: torch.Generator) -> Measures:
    """The same, for which a translation is worth nothing."""
    found = unigram(train, test, generator)["log_perplexity"]
    return {"log_perplexity": found, "alone": found, "other": found, "translation": 0.0}
