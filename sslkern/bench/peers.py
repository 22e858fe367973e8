"""The libraries sslkern is compared with: which are installed, and how to import them."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path

from sslkern.bench.contenders import UnavailableError


@dataclass(frozen=True)
class Peer:
    """A library with an implementation of one of our losses."""

    name: str
    """Also the name of its distribution on the package index."""
    install: str
    needs_torchvision: bool = False
    """Whether its losses import torchvision, which they do not use."""


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            "lightly",
            # Plain `pip install lightly` pulls in torchvision, and with it another torch.
            "pip install --no-deps lightly==1.6.0 && pip install tqdm pytorch_lightning"
            " hydra-core lightly-utils aenum",
            needs_torchvision=True,
        ),
        Peer(
            "pytorch-metric-learning",
            "pip install pytorch-metric-learning==2.9.0",
        ),
        Peer(
            "info-nce-pytorch",
            "pip install --no-deps info-nce-pytorch==0.1.4",
        ),
        Peer(
            "open_clip_torch",
            # Its dependencies bring torchvision and another torch; its losses need torch alone.
            "pip install --no-deps open_clip_torch==3.3.0",
        ),
        Peer(
            "POT",
            # Beside numpy it needs scipy, which comes with scikit-learn.
            "pip install --no-deps POT==0.9.7.post1 && pip install scikit-learn",
        ),
        Peer(
            "sentence-transformers",
            "pip install sentence-transformers==6.2.0",
        ),
    )
}


def installed_version(peer: Peer) -> str | None:
    """Version of the installed peer, or None; does not import it."""
    try:
        return importlib.metadata.version(peer.name)
    except importlib.metadata.PackageNotFoundError:
        return None


def import_peer(name: str, module: str) -> types.ModuleType:
    """Import ``module`` of the peer ``name``.

    Raises:
        UnavailableError: If the peer is not installed or does not import; says what to do.
    """
    with _importing(name):
        return importlib.import_module(module)


def load_peer_file(name: str, path: str) -> types.ModuleType:
    """Load the one file ``path`` of the peer ``name``, whose package imports more than is there.

    Raises:
        UnavailableError: If the peer is not installed or does not import; says what to do.
    """
    with _importing(name):
        file = Path(str(importlib.metadata.distribution(name).locate_file(path)))
        spec = importlib.util.spec_from_file_location(
            path.removesuffix(".py").replace("/", "_"), file
        )
        if spec is None or spec.loader is None:
            raise ImportError(f"{file} is no Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


@contextmanager
def _importing(name: str) -> Iterator[None]:
    """Around imports of the peer ``name``: every way to fail is an `UnavailableError`."""
    peer = PEERS[name]
    if installed_version(peer) is None:
        raise UnavailableError(f"not installed: {peer.install}")
    try:
        # Others look whether torchvision is there, and would take the stub for it.
        stub = _torchvision() if peer.needs_torchvision else nullcontext()
        with warnings.catch_warnings(), stub:
            warnings.simplefilter("ignore")  # what a peer deprecates is not our user's business
            yield
    except Exception as error:  # a broken peer is skipped, however it is broken
        raise UnavailableError(
            f"installed, but does not import: {type(error).__name__}: {error}"
        ) from error


@contextmanager
def _torchvision() -> Iterator[None]:
    """Make ``import torchvision`` succeed: with the real one, otherwise with a stub meanwhile.

    lightly.loss imports torchvision for models and transforms that its loss classes never touch,
    and torchvision does not import beside the CPU build of torch. The stub leaves ``sys.modules``
    afterwards, so nobody else takes it for the real one.
    """
    if _imports("torchvision"):
        yield
        return
    _forget("torchvision")  # what a failed import of the real one left behind
    finder = _StubFinder("torchvision")
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _forget("torchvision")


def _imports(module: str) -> bool:
    try:
        importlib.import_module(module)
    except Exception:  # RuntimeError and OSError too: operators that do not match this torch
        return False
    return True


def _forget(package: str) -> None:
    for name in list(sys.modules):
        if name == package or name.startswith(f"{package}."):
            del sys.modules[name]


class _StubModule(types.ModuleType):
    """Has every public attribute: an empty class, which may be subclassed or annotated with."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _StubFinder(MetaPathFinder, Loader):
    """Finds ``package`` and everything below it, and loads stubs."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.split(".")[0] != self._package:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _StubModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """A stub has nothing to run."""
