"""Every method that the command trains: its files, its steps, its state."""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import sslkern.methods
from sslkern.data import LOADERS, Samples, load_data
from sslkern.methods import Method
from sslkern.train import TrainConfig, Trainer
from sslkern.train.engine import build_model
from sslkern.train.recipes import load_recipe, recipe_names

ROOT = Path(__file__).parents[1]
BATCH = 16
LEAST = {"wmse": 64}
"""Whitening takes parts of that many samples."""
load_once = cache(load_data)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def few_samples(config: TrainConfig) -> Samples:
    """Three batches."""
    return load_once(config.data).take(torch.arange(3 * config.batch_size))


def config_of(name: str, **given: Any) -> TrainConfig:
    return TrainConfig.of(name, epochs=2, batch_size=LEAST.get(name, BATCH), **given)


def methods() -> list[type[Method]]:
    found = [getattr(sslkern.methods, name) for name in sslkern.methods.__all__]
    return [x for x in found if isinstance(x, type) and issubclass(x, Method) and x is not Method]


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.__name__)
def test_method_has_a_recipe_a_test_and_a_source(method: type[Method]) -> None:
    stem = method.__module__.rsplit(".", 1)[1]
    used = (Path(load_recipe(name).build.__code__.co_filename) for name in recipe_names())
    assert any(method.__name__ in path.read_text() for path in used)
    assert (ROOT / "tests" / "methods" / f"test_{stem}.py").exists()
    assert "Source:" in (inspect.getdoc(method) or "")
    assert "https://" in (inspect.getdoc(method) or "")


def test_every_module_of_methods_is_exported() -> None:
    folder = ROOT / "sslkern" / "methods"
    stems = {path.stem for path in folder.glob("*.py")} - {"__init__", "method"}
    assert {method.__module__.rsplit(".", 1)[1] for method in methods()} == stems


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_names_data_that_exists(name: str) -> None:
    recipe = load_recipe(name)
    assert set(recipe.data) <= set(LOADERS)
    assert recipe.quick <= recipe.epochs
    assert recipe.evidence.margin > 0


@pytest.mark.parametrize("name", recipe_names())
def test_resumed_run_equals_the_unbroken_one(name: str) -> None:
    """Two steps, a file, two more across the end of an epoch; against four at once."""
    config = config_of(name)
    samples = few_samples(config)
    unbroken, broken = Trainer(config, samples), Trainer(config, samples)
    file = io.BytesIO()
    for _ in range(2):
        broken.run_step()
    torch.save(broken.state_dict(), file)
    file.seek(0)
    resumed = Trainer(config, samples)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(4):
        unbroken.run_step()
    torch.manual_seed(123)  # must not matter
    for _ in range(2):
        resumed.run_step()
    assert resumed.history == unbroken.history
    expected = unbroken.model.state_dict()
    for key, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[key]), key


@pytest.mark.parametrize("name", recipe_names())
def test_step_moves_every_parameter_that_the_optimizer_has(name: str) -> None:
    config = config_of(name)
    trainer = Trainer(config, few_samples(config))
    before = {key: value.clone() for key, value in trainer.model.named_parameters()}
    for _ in range(3):
        trainer.run_step()
    still = {
        key
        for key, value in trainer.model.named_parameters()
        if value.requires_grad and torch.equal(value, before[key])
    }
    assert not still


@cache
def recipe_of_each_method() -> dict[type[Method], str]:
    found: dict[type[Method], str] = {}
    for name in recipe_names():
        config = config_of(name)
        found.setdefault(type(build_model(config, few_samples(config))), name)
    return found


@pytest.mark.parametrize("name", recipe_names())
def test_step_under_autocast_is_about_the_same(name: str) -> None:
    plain, autocast = (config_of(name, amp=amp) for amp in (False, True))
    losses = [Trainer(c, few_samples(c)).run_step()["loss"] for c in (plain, autocast)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05, abs=0.01)


@pytest.mark.parametrize("method", methods(), ids=lambda method: method.__name__)
def test_compiled_step_is_one_graph_and_equals_the_eager_one(method: type[Method]) -> None:
    eager, compiled = eager_and_compiled(recipe_of_each_method()[method], "aot_eager")
    assert compiled.run_step() == eager.run_step()
    expected = eager.model.state_dict()
    for key, value in compiled.model.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["moco_v2", "swav"])  # a queue and a teacher; prototypes
def test_default_backend_trains(name: str) -> None:
    with torch._inductor.config.patch(fallback_random=True):  # the numbers of eager PyTorch
        eager, compiled = eager_and_compiled(name, "inductor")
        for _ in range(2):
            assert compiled.run_step()["loss"] == pytest.approx(eager.run_step()["loss"], rel=1e-3)


def eager_and_compiled(name: str, backend: str) -> tuple[Trainer, Trainer]:
    config = config_of(name)
    eager, compiled = (Trainer(config, few_samples(config)) for _ in range(2))
    torch.compiler.reset()
    compiled._call = torch.compile(compiled.model, backend=backend, fullgraph=True)
    return eager, compiled


@pytest.fixture(autouse=True)
def _graphs_of_gru() -> Iterator[None]:
    """torch.compile breaks the graph at the GRU of CPC otherwise."""
    with torch._dynamo.config.patch(allow_rnn=True):
        yield


@pytest.mark.parametrize(
    ("name", "data"),
    [(name, data) for name in recipe_names() for data in load_recipe(name).data[1:]],
)
def test_method_trains_on_every_data_set_that_it_names(name: str, data: str) -> None:
    config = config_of(name, data=data)
    trainer = Trainer(config, few_samples(config))
    trainer.run_step()  # raises where the loss is not finite
    assert trainer.step == 1
