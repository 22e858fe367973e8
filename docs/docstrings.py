"""Reads the docstrings of the package for the documentation: math, examples, names of objects.

Docstrings have math as ``:math:`x``` and ``.. math::``, and names of other objects in single
backticks. The site is made of Markdown, which knows neither.
"""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import griffe

_DIRECTIVE = re.compile(
    r"^(?P<indent>[ ]*)\.\. math::[ ]*(?P<first>[^\n]*)\n"
    r"(?P<rest>(?:(?P=indent)[ ]+[^\n]*\n|[ ]*\n(?=(?P=indent)[ ]+[^\s]))*)",
    re.MULTILINE,
)
_ROLE = re.compile(r":math:`([^`]*)`")
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
_LITERAL = re.compile(r"::\n\n(?= +\S)")
_RAISES = re.compile(r"^( *)Raises:\n(?:\1 +\S.*\n|\n(?=\1 +\S))+", re.MULTILINE)
_NAME = re.compile(r"(?<![`\w])`([A-Za-z_][\w.]*)`(?!`)")


def with_display_math(text: str) -> str:
    r"""Docstring with ``.. math::`` blocks as ``$$``; several lines are aligned, as by Sphinx.

    Example:
        >>> with_display_math(".. math:: x\n    + y\n\nText\n")
        '\n$$\nx\n+ y\n$$\n\nText\n'
    """

    def block(match: re.Match[str]) -> str:
        indent = match["indent"]
        lines = [match["first"].strip(), *textwrap.dedent(match["rest"]).strip().splitlines()]
        body = [line.strip() for line in lines if line.strip()]
        if any(r"\\" in line for line in body):
            body = [r"\begin{aligned}", *body, r"\end{aligned}"]
        return "".join(f"{indent}{line}\n" for line in ["", "$$", *body, "$$"]).replace(
            f"{indent}\n", "\n"
        )

    return _DIRECTIVE.sub(block, text + "\n").removesuffix("\n")


def with_inline_math(text: str) -> str:
    r"""Docstring with ``:math:`` roles in the brackets that arithmatex reads.

    Example:
        >>> print(with_inline_math(r"of :math:`\tau` alone"))
        of \(\tau\) alone
    """
    return _ROLE.sub(lambda match: rf"\({' '.join(match[1].split())}\)", text)


def with_sections(text: str) -> str:
    """Docstring whose examples and literal blocks are what the parser and Markdown know."""
    return _LITERAL.sub(":\n\n", _EXAMPLE.sub(r"\1Examples:", with_raises(text)))


def with_raises(text: str) -> str:
    """Docstring whose paragraphs under "Raises:" that name no exception are behind that section."""

    def outdent(match: re.Match[str]) -> str:
        paragraphs = match[0].split("\n\n")
        kept = [
            x if i == 0 or re.match(r" *\w+: ", x) else textwrap.dedent(x)
            for i, x in enumerate(paragraphs)
        ]
        return "\n\n".join(kept)

    return _RAISES.sub(outdent, text)


def path_of(name: str, scope: griffe.Object) -> str | None:
    """Where the object is defined that a name means in a scope; None where it means none."""
    package = scope.package
    try:
        path = name if name.split(".")[0] == package.name else scope.resolve(name)
    except griffe.GriffeError:
        return None
    if path.split(".")[0] != package.name:
        return None
    if path == package.name:
        return path
    with contextlib.suppress(KeyError, griffe.GriffeError):
        return str(package[path.split(".")[1:]].canonical_path)
    return path


def with_links(text: str, scope: griffe.Object) -> str:
    """Docstring whose names in single backticks lead to the objects, where these are shown."""

    def link(match: re.Match[str]) -> str:
        path = path_of(match[1], scope)
        if path is None:
            return match[0]
        return f'<autoref identifier="{path}" optional><code>{match[1]}</code></autoref>'

    return _NAME.sub(link, text)


def objects_within(obj: griffe.Object) -> Iterator[griffe.Object | griffe.Alias]:
    """The object, and all that is within it."""
    yield obj
    for member in obj.members.values():
        if member.is_alias:
            yield member
        else:
            yield from objects_within(member)


def prefer_functions(package: griffe.Module) -> None:
    """Have names that are a file's and its function's mean the function, as in Python.

    ``sslkern.ops.sinkhorn`` is both, and the loader keeps the file.
    """
    everything = list(objects_within(package))
    hidden = {
        obj.path: obj.members[obj.name]
        for obj in everything
        if not obj.is_alias and obj.is_module and obj.name in obj.members and obj.parent
        if obj.name in (obj.parent.exports or ())
    }
    for alias in everything:
        if alias.is_alias:
            if alias.target_path in hidden:
                alias.target_path += f".{alias.target_path.split('.')[-1]}"
            with contextlib.suppress(griffe.GriffeError, KeyError):
                alias.resolve_target()  # while the files are still there
    for path, function in hidden.items():
        parent = package[path.split(".")[1:-1]]
        file = parent.members[function.name]
        # What else is in the file is still found by its path.
        function.members.update({n: x for n, x in file.members.items() if x is not function})
        parent.members[function.name] = griffe.Alias(function.name, function, parent=parent)


def rewrite(obj: griffe.Object) -> None:
    """Rewrite the docstring of an object."""
    if obj.docstring is None:
        return
    text = with_sections(obj.docstring.value)
    parts = re.split(r"(^ *(?:>>>|\.\.\.) .*$)", text, flags=re.MULTILINE)
    parts[::2] = [with_links(with_inline_math(with_display_math(x)), obj) for x in parts[::2]]
    obj.docstring.value = "".join(parts)


class Docstrings(griffe.Extension):
    """Rewrites every docstring of a package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite them."""
        own = [obj for obj in objects_within(pkg) if not obj.is_alias]
        prefer_functions(pkg)
        for obj in own:
            rewrite(obj)
            if obj.name == "extra_repr" and obj.parent:  # every module has it, for print
                del obj.parent.members[obj.name]
