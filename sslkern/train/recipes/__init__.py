"""One file per method that ``python -m sslkern train`` knows; the file's name is the method's."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from sslkern.train.recipe import Recipe


@cache
def recipe_names() -> tuple[str, ...]:
    """Names of all methods, in alphabetical order."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load_recipe(name: str) -> Recipe:
    """The recipe of a method."""
    recipe: Recipe = importlib.import_module(f"{__name__}.{name}").RECIPE
    return recipe
