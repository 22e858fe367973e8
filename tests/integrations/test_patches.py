"""What all patches share: versions, libraries that are not there, their end, their examples."""

from __future__ import annotations

import doctest
import importlib
import importlib.metadata
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from before_and_after import evaluate
from open_clip_losses import open_clip_losses
from torch import Tensor, nn

import sslkern
from sslkern import integrations
from sslkern.bench import peers
from sslkern.bench.contenders import UnavailableError
from sslkern.integrations._patch import Patch, replacement

PATCHES: dict[str, Callable[[], Patch]] = {
    "lightly": integrations.patch_lightly,
    "pytorch-metric-learning": integrations.patch_pytorch_metric_learning,
    "open_clip_torch": integrations.patch_open_clip,
    "sentence-transformers": integrations.patch_sentence_transformers,
}


def load(library: str) -> None:
    """Import what the patch imports; skips where it is not there."""
    try:
        if library == "open_clip_torch":
            open_clip_losses()
        elif library == "lightly":
            peers.import_peer("lightly", "lightly.loss")
        else:
            pytest.importorskip(library.replace("-", "_"))
    except UnavailableError as reason:
        pytest.skip(str(reason))


@pytest.fixture(autouse=True)
def _own_code_afterwards() -> Iterator[None]:
    yield
    integrations.unpatch_all()


# ---- versions


def test_every_patch_has_tested_versions() -> None:
    assert integrations.TESTED.keys() == PATCHES.keys()


@pytest.mark.parametrize("library", PATCHES)
@pytest.mark.parametrize("version", ["0.0.1", "99.0", "1.0rc1", "unknown"])
def test_other_versions_are_refused(
    monkeypatch: pytest.MonkeyPatch, library: str, version: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    first, last = integrations.TESTED[library]
    with pytest.raises(ImportError) as caught:
        PATCHES[library]()
    for part in (f"expected {library} to be of ", first, last, f"got {version}.", "pip install"):
        assert part in str(caught.value)


@pytest.mark.parametrize("library", PATCHES)
def test_candidates_of_a_release_are_refused(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    version = f"{integrations.TESTED[library][0]}rc1"
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with pytest.raises(ImportError, match=rf"got {version}"):
        PATCHES[library]()


@pytest.mark.parametrize("library", PATCHES)
def test_local_builds_of_a_version_are_taken(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    load(library)
    version = f"{integrations.TESTED[library][1]}+cpu"
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    with PATCHES[library]() as patch:
        assert patch.version == version


@pytest.mark.parametrize("library", PATCHES)
def test_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(ImportError) as caught:
        PATCHES[library]()
    expected = f"sslkern::integrations: expected {library} to be installed, got no such package."
    assert str(caught.value).startswith(expected)
    assert f"pip install {library}==" in str(caught.value)


def test_no_library_is_imported_before_its_patch() -> None:
    names = ["lightly", "pytorch_metric_learning", "open_clip", "sentence_transformers"]
    code = f"import sys, sslkern.integrations; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# ---- the end of patches


def test_unpatch_all_ends_every_patch() -> None:
    for library in PATCHES:
        load(library)
    patches = [patch() for patch in PATCHES.values()] + [integrations.patch_open_clip()]
    assert all(patch.active for patch in patches)
    integrations.unpatch_all()
    assert not any(patch.active for patch in patches)
    for patch in patches:
        patch.unpatch()
        assert patch.library in repr(patch)
        assert "ended" in repr(patch)
    clip = open_clip_losses().ClipLoss
    assert inspect.unwrap(clip.forward) is clip.forward


def test_patch_ends_with_an_error_in_its_block() -> None:
    with pytest.raises(ZeroDivisionError), _patched(_Loss) as patch:
        _ = len(_Loss()(1)) / 0
    assert not patch.active
    assert _Loss()(1) == "theirs"


class _Loss:
    def __call__(self, x: Any) -> str:
        return self.forward(x)

    def forward(self, x: Any) -> str:
        """Theirs."""
        return "theirs"


def _patched(cls: type) -> Patch:
    return Patch("some", "1.0", [replacement(cls, "forward", "some.Loss", lambda self, x: "ours")])


def test_method_keeps_its_name_and_signature() -> None:
    before = inspect.signature(_Loss.forward)
    with _patched(_Loss):
        assert inspect.signature(_Loss.forward) == before
        assert _Loss.forward.__doc__ == "Theirs."
        assert _Loss.forward.__qualname__ == "_Loss.forward"


def test_method_of_someone_else_stays() -> None:
    """Put there during the patch, around ours, which from then on calls the original."""

    class Loss(_Loss):
        def forward(self, x: Any) -> str:
            return "own"

    patch = _patched(Loss)
    inner = Loss.forward
    Loss.forward = lambda self, x: f"around {inner(self, x)}"
    assert Loss()(1) == "around ours"
    patch.unpatch()
    assert Loss()(1) == "around own"


# ---- every patched method takes what the original takes


@pytest.mark.parametrize("library", PATCHES)
def test_ours_have_the_parameters_of_the_originals(library: str) -> None:
    load(library)
    with PATCHES[library]() as patch:
        for item in patch._replacements:
            (ours,) = (
                cell.cell_contents
                for cell in item.method.__closure__
                if inspect.isfunction(cell.cell_contents)
                and cell.cell_contents is not item.original
            )
            theirs = inspect.signature(item.original).parameters.values()
            own = inspect.signature(ours).parameters.values()
            assert [(p.name, p.kind, p.default) for p in own] == [
                (p.name, p.kind, p.default) for p in theirs
            ]


# ---- examples


@pytest.mark.parametrize("library", PATCHES)
def test_example_of_the_docstring_runs(library: str) -> None:
    """Marked to be skipped, for not everyone has the library."""
    load(library)
    module: ModuleType = importlib.import_module(PATCHES[library].__module__)
    (test,) = (
        test
        for test in doctest.DocTestFinder().find(module)
        if test.name == f"{module.__name__}.{PATCHES[library].__name__}"
    )
    assert len(test.examples) > 3
    for example in test.examples:
        assert example.options.pop(doctest.SKIP)
    assert doctest.DocTestRunner().run(test).failed == 0


# ---- compiled


class _Model(nn.Module):
    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.loss(2 * a, b)


def test_patched_loss_compiles() -> None:
    load("lightly")
    from lightly.loss import NTXentLoss

    inputs = list(torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)))
    model = _Model(NTXentLoss())
    expected = evaluate(model, *inputs)
    with integrations.patch_lightly():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(evaluate(compiled, *inputs), expected)


def test_package_is_there() -> None:
    assert sslkern.integrations is integrations
