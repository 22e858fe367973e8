"""The settings that decide the result of a run."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sslkern.train.recipe import Option
from sslkern.train.recipes import load_recipe, recipe_names

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class ConfigError(ValueError):
    """A setting that is out of its range; the message names it as the command line does."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run; the same settings on the same number of threads give the same bits.

    `TrainConfig.of` fills in what a method's recipe recommends.

    Attributes:
        method: Name of a recipe.
        data: Name of a data set that the recipe can use.
        epochs: Of the whole run, which the schedule spans.
        batch_size: Samples of a step.
        lr: Peak of the learning rate.
        seed: Of everything that is random.
        dtype: Of weights and data.
        amp: Whether the forward pass runs under autocast to bfloat16.
        compile: Whether the method is compiled.
        options: Of the method, by name.

    Raises:
        ConfigError: If a setting is out of its range.
    """

    method: str
    data: str
    epochs: int
    batch_size: int
    lr: float
    seed: int = 0
    dtype: str = "float32"
    amp: bool = False
    compile: bool = False
    options: Mapping[str, Option] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, method: str = "simclr", **given: Any) -> TrainConfig:
        """Settings of a method: those given, the others as its recipe recommends.

        Raises:
            ConfigError: If there is no such method, or a setting is out of its range.
        """
        _check(method in recipe_names(), "method", f"one of {', '.join(recipe_names())}", method)
        recipe = load_recipe(method)
        recommended = {
            "data": recipe.data[0],
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "lr": recipe.lr,
        }
        options = _options(recipe.options, given.pop("options", {}), method)
        return cls(method, **{**recommended, **given}, options=options)

    def __post_init__(self) -> None:
        """Check every range."""
        _check(self.method in recipe_names(), "method", "the name of a method", self.method)
        usable = load_recipe(self.method).data
        _check(self.data in usable, "data", f"one of {', '.join(usable)}", self.data)
        _check(self.dtype in DTYPES, "dtype", f"one of {', '.join(DTYPES)}", self.dtype)
        _check(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        _check(self.batch_size >= 2, "batch-size", "at least 2", self.batch_size)
        _check(0 < self.lr < math.inf, "lr", "positive and finite", self.lr)
        _check(0 <= self.seed < 2**32, "seed", "between 0 and 2^32 - 1", self.seed)
        _check(not (self.amp and self.dtype == "float64"), "dtype", "float32 with --amp", "float64")

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values, in the order of the fields."""
        return dataclasses.asdict(self)


def read_config(path: Path) -> dict[str, Any]:
    """The settings of a TOML file: the names of the flags, and a table ``options``.

    Raises:
        ConfigError: If it cannot be read, is no TOML or has a setting that does not exist.
    """
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    given = {name.replace("-", "_"): value for name, value in content.items()}
    fields = {field.name: field.type for field in dataclasses.fields(TrainConfig)}
    for name, value in given.items():
        if name not in fields:
            raise ConfigError(f"{path} sets {name}, expected one of {', '.join(fields)}")
        given[name] = _typed(value, str(fields[name]), f"{name} of {path}")
    return given


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
}


def _typed(value: Any, kind: str, name: str) -> Any:
    accepted = _TYPES.get(kind, (dict,))
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        raise ConfigError(f"expected {name} to be of type {kind}, got {value!r}")
    return value


def parse_options(words: list[str]) -> dict[str, str]:
    """``NAME=VALUE`` of the command line; what the values mean is decided by their defaults.

    Raises:
        ConfigError: If there is no ``=``.
    """
    options = {}
    for word in words:
        name, equals, value = word.partition("=")
        _check(bool(name and equals), "set", "NAME=VALUE", word)
        options[name.replace("-", "_")] = value
    return options


def _options(
    known: Mapping[str, Option], given: Mapping[str, Any], method: str
) -> dict[str, Option]:
    """The options known to a method, those given in their place and of the types of these."""
    for name in given:
        names = ", ".join(known) or "none, for it has no options"
        _check(name in known, "set", f"an option of {method} ({names})", name)
    converted = {name: _convert(name, value, known[name]) for name, value in given.items()}
    return {**known, **converted}


def _convert(name: str, value: Any, default: Option) -> Option:
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind is int and isinstance(value, float):
            raise ValueError
        return kind(value)
    except (KeyError, TypeError, ValueError):
        raise ConfigError(
            f"expected --set {name} to be of type {kind.__name__}, got {value!r}"
        ) from None


def _check(ok: bool, name: str, requirement: str, got: object) -> None:
    if not ok:
        raise ConfigError(f"expected --{name} to be {requirement}, got {got}")
