"""What all patches share: methods that are replaced in place, counted, and put back."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from threading import RLock
from types import ModuleType, TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sslkern.integrations import _again
from sslkern.integrations._tested import INSTALL, TESTED

Method = Callable[..., Any]


class FallbackWarning(UserWarning):
    """A call that a patched class passed on to the library's own code, and why.

    It comes once per class and reason, and again after a new patch. The numbers are the library's.
    """


class NotServedError(Exception):
    """What a call asks for that ours does not have; raised before anything has happened."""


@dataclass(eq=False)
class Replacement:
    """A method of a library's class that ours stands in for while ``uses`` is not zero."""

    owner: type
    name: str
    label: str
    original: Method
    inherited: bool
    once: Callable[[Any], bool]
    again: Callable[[Method], Method]
    method: Method | None = None
    uses: int = 0
    warned: set[str] = field(default_factory=set)

    def take(self) -> None:
        """Put our method there, or count one more who wants it."""
        if self.uses == 0:
            self.warned.clear()
            setattr(self.owner, self.name, self.method)
        self.uses += 1

    def release(self) -> None:
        """Count one less; after the last the original is there again.

        Where something else was put there meanwhile, it stays; what it may hold of ours calls the
        original from now on.
        """
        self.uses -= 1
        if self.uses == 0 and self.owner.__dict__.get(self.name) is self.method:
            if self.inherited:
                delattr(self.owner, self.name)
            else:
                setattr(self.owner, self.name, self.original)

    def warn(self, reason: str) -> None:
        """Say once per reason that the library's own code ran."""
        if reason not in self.warned:
            self.warned.add(reason)
            warnings.warn(
                f"sslkern::integrations: {self.label} runs its library's own code for this: "
                f"{reason}.",
                FallbackWarning,
                stacklevel=5,  # past the calls of nn.Module
            )


_lock = RLock()
_replacements: dict[tuple[type, str], Replacement] = {}
_active: list[Patch] = []


class Patch:
    """A library whose losses are ours until `unpatch`, or until the end of a ``with``.

    Patches of one library nest: its own code is back when the last of them has ended, in whichever
    order they do.

    Args:
        library: Name of the distribution.
        version: The one that is installed.
        replacements: What it replaces.
    """

    def __init__(self, library: str, version: str, replacements: Iterable[Replacement]) -> None:
        self.library = library
        self.version = version
        self._replacements = tuple(replacements)
        self._holds = True
        with _lock:
            for replacement in self._replacements:
                replacement.take()
            _active.append(self)

    @property
    def active(self) -> bool:
        """Whether this patch still holds."""
        return self._holds

    @property
    def replaced(self) -> tuple[str, ...]:
        """The classes, by the names that the library gives them."""
        return tuple(replacement.label for replacement in self._replacements)

    def unpatch(self) -> None:
        """End this patch; again is without effect."""
        with _lock:
            if self._holds:
                self._holds = False
                _active.remove(self)
                for replacement in self._replacements:
                    replacement.release()

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.unpatch()

    def __repr__(self) -> str:
        state = "active" if self._holds else "ended"
        return f"<{state} patch of {self.library} {self.version}: {', '.join(self.replaced)}>"


def unpatch_all() -> None:
    """End all patches that hold, of all libraries.

    Example:
        >>> import sslkern
        >>> sslkern.integrations.unpatch_all()
    """
    with _lock:
        while _active:
            _active[-1].unpatch()


def never(module: object) -> bool:
    """Says of no module that its gradients are differentiated at most once."""
    return False


def replacement(
    owner: type,
    name: str,
    label: str,
    ours: Method,
    once: Callable[[Any], bool] = never,
    again: Callable[[Method], Method] = lambda original: original,
) -> Replacement:
    """What has ``ours`` stand in for the method ``name`` of ``owner``; the same one each time.

    ``ours`` takes what the original takes. Where it raises `NotServedError`, or refuses its
    arguments, the original is called, whose result or error it then is. ``once`` says of which
    modules the original may not run again for a second derivative, or has no need to; ``again``
    makes of the original what returns the same as ours.
    """
    with _lock:
        known = _replacements.get((owner, name))
        if known is None:
            inherited = name not in owner.__dict__
            original = getattr(owner, name)
            known = Replacement(owner, name, label, original, inherited, once, again)
            known.method = _method(known, ours)
            _replacements[owner, name] = known
        return known


def _method(replaced: Replacement, ours: Method) -> Method:
    original = replaced.original

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if replaced.uses == 0:
            return original(self, *args, **kwargs)
        try:
            _need_plain_autograd()
            if replaced.once(self) or _has_gradient(self):
                return ours(self, *args, **kwargs)
            again = replaced.again(original)
            both = functools.partial(ours, self), functools.partial(again, self)
            return _again.run(*both, args, kwargs)
        except NotServedError as error:
            reason = str(error)
        except (TypeError, ValueError, NotImplementedError) as error:
            reason = _requirement(error)
        result = original(self, *args, **kwargs)
        replaced.warn(reason)
        return result

    return method


def _need_plain_autograd() -> None:
    """Leave forward-mode derivatives and the transforms of torch.func to the library."""
    if torch.compiler.is_compiling():
        return
    need(not torch._C._are_functorch_transforms_active(), "a transform of torch.func")
    need(forward_ad._current_level < 0, "a forward-mode derivative")


def _has_gradient(module: Any) -> bool:
    """Whether a setting of the module itself, such as a temperature, is to get a gradient."""
    held = (*vars(module).values(), *vars(module).get("_parameters", {}).values())
    return any(isinstance(value, Tensor) and value.requires_grad for value in held)


def _requirement(error: Exception) -> str:
    """What one of our errors asks for, without what it got: one reason, however often it comes."""
    return str(error).split(", got ")[0].split("\n")[0]


def need(condition: bool, reason: str) -> None:
    """Leave a call to the library unless the condition holds; the reason says what does not."""
    if not condition:
        raise NotServedError(reason)


def need_own_methods(module: object, owner: type, *names: str) -> None:
    """Leave a call to the library where a subclass or an instance has methods of its own."""
    for name in names:
        own = name in vars(module) or getattr(type(module), name) is not getattr(owner, name)
        need(not own, f"{name} of a subclass")


def patch_library(
    library: str, module: str, replacements: Callable[[ModuleType], Iterable[Replacement]]
) -> Patch:
    """Put in what ``replacements`` makes of the library's module.

    Raises:
        ImportError: If the library is not installed, or of a version that was not tested.
    """
    found, version = _import_library(library, module)
    return Patch(library, version, replacements(found))


def _import_library(library: str, module: str) -> tuple[ModuleType, str]:
    """The module, and the version of the library that is installed."""
    install = INSTALL[library]
    try:
        version = importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        raise ImportError(
            f"sslkern::integrations: expected {library} to be installed, got no such package. "
            f"Run {install}."
        ) from None
    first, last = TESTED[library]
    if not _release(first) <= _release(version) <= _release(last):
        versions = f"version {first}" if first == last else f"a version from {first} to {last}"
        raise ImportError(
            f"sslkern::integrations: expected {library} to be of {versions}, got {version}. "
            f"Run {install}."
        )
    return importlib.import_module(module), version


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version up to its patch level; what is no release comes before it."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?(.*)", version)
    if found is None:
        return (-1,)
    major, minor, patch, rest = found.groups()
    early = re.match(r"[-_.]?(a|b|c|rc|alpha|beta|dev|pre)", rest) is not None
    return int(major), int(minor), int(patch or 0), -1 if early else 0
