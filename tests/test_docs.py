"""The documentation builds without a warning, renders, its links lead somewhere, its code runs."""

from __future__ import annotations

import ast
import contextlib
import doctest
import functools
import importlib
import importlib.util
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urldefrag

import pytest
import torch
from open_clip_losses import open_clip_losses

import sslkern
from sslkern.bench.contenders import UnavailableError
from sslkern.bench.peers import import_peer
from sslkern.cli.main import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
MODULES = ["", ".losses", ".methods", ".parallel", ".integrations", ".reference"]

needs_mkdocs = pytest.mark.skipif(
    importlib.util.find_spec("mkdocstrings") is None,
    reason="mkdocs is not installed: pip install -r requirements-docs.txt",
)


def script(path: str) -> ModuleType:
    """A file of the documentation as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- the site


class Page(HTMLParser):
    """Identifiers, links, images, math and text of a page; text without code and scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[str] = []
        self.math: list[str] = []
        self.text: list[str] = []
        self._open: list[tuple[str, bool]] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.update(value for name in ("id", "name") if (value := given.get(name)))
        self.targets += [value for name in ("href", "src") if (value := given.get(name))]
        if tag not in {"meta", "link", "img", "br", "hr", "input"}:
            self._open.append((tag, "arithmatex" in (given.get("class") or "")))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][1]:
            self.math.append(data)
        elif not {tag for tag, _ in self._open} & {"code", "pre", "script", "style"}:
            self.text.append(data)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it was built, with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Page]:
    """All pages but the one for what is not found, whose links are those of a server."""
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


@needs_mkdocs
def test_every_page_is_built(pages: dict[Path, Page], site: Path) -> None:
    built = {str(path.parent.relative_to(site)) for path in pages}
    sources = {str(page.relative_to(DOCS).with_suffix("")) for page in PAGES}
    assert built == {name.removesuffix("index").strip("/") or "." for name in sources}


@needs_mkdocs
@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_documented(pages: dict[Path, Page], module: str) -> None:
    ids = set().union(*(page.ids for page in pages.values()))
    path = f"sslkern{module}"
    names = [name for name in importlib.import_module(path).__all__ if name != "__version__"]
    assert names
    assert [name for name in names if f"{path}.{name}" not in ids] == []


@needs_mkdocs
def test_links_lead_somewhere(pages: dict[Path, Page], site: Path) -> None:
    broken = []
    for path, page in pages.items():
        for target in page.targets:
            address, fragment = urldefrag(unquote(target))
            if re.match(r"[a-z]+:", address):
                continue
            found = (path.parent / address).resolve() if address else path
            found = found / "index.html" if found.is_dir() else found
            ids = pages[found].ids if found in pages else set()
            if not found.exists() or (fragment and fragment not in ids):
                broken.append(f"{path.relative_to(site)}: {target}")
    assert not broken


@needs_mkdocs
def test_names_in_docstrings_are_links(pages: dict[Path, Page]) -> None:
    """Every function names its definition, and those for several processes what that means."""
    shown = [page for page in pages.values() if any(i.startswith("sslkern.") for i in page.ids)]
    own = {target.split("#")[-1] for page in shown for target in page.targets if "../" in target}
    functions = set(sslkern.__all__) & set(sslkern.reference.__all__)
    assert len(functions) > 20
    assert {f"sslkern.reference.{name}" for name in functions} <= own
    assert {"sslkern.parallel", "sslkern.methods.TiCoState"} <= own


@needs_mkdocs
def test_nothing_of_another_markup_is_left(pages: dict[Path, Page], site: Path) -> None:
    """Roles and directives of reST, names in backticks, includes that were not put in."""
    raw = re.compile(r":\w+:`|\.\. \w+::|`|\\\(|\$\$")
    left = []
    for path, page in pages.items():
        found = raw.findall("\n".join(page.text))
        left += [f"{path.relative_to(site)}: {text}" for text in found]
        assert not re.search("<autoref|<!-- (section|help|names)", path.read_text())
    assert not left


@needs_mkdocs
def test_math_is_whole(pages: dict[Path, Page]) -> None:
    formulas = [formula for page in pages.values() for formula in page.math]
    assert len(formulas) > 200
    for formula in formulas:
        body = re.fullmatch(r"\s*(?:\\\((.*)\\\)|\\\[(.*)\\\])\s*", formula, re.DOTALL)
        assert body is not None, formula
        bare = re.sub(r"\\[{}]", "", formula)
        assert bare.count("{") == bare.count("}"), formula
        begun, ended = (re.findall(rf"\\{x}{{(\w+)}}", formula) for x in ("begin", "end"))
        assert begun == ended[::-1], formula
        lefts, rights = (len(re.findall(rf"\\{x}(?![a-z])", formula)) for x in ("left", "right"))
        assert lefts == rights, formula
        assert ("&" in formula or r"\\" in formula) == bool(begun), formula


@needs_mkdocs
def test_functions_that_are_files_are_documented_as_functions(pages: dict[Path, Page]) -> None:
    """``sslkern.ops.sinkhorn`` is a file as well."""
    text = {path.parent.name: path.read_text() for path in pages}
    for name in ("sinkhorn", "linear_cross_entropy", "soft_cross_entropy"):
        heading = rf'id="sslkern\.{name}" class="doc doc-heading">\s*<code class="[^"]*-function"'
        assert re.search(heading, text[name])


@needs_mkdocs
def test_pages_include_sections_and_help() -> None:
    hooks = script("docs/hooks.py")
    assert "sm_80" in hooks.section("README.md", "CUDA: what has been run, and what has not")
    with pytest.raises(Exception, match="no heading 'Nothing'"):
        hooks.section("README.md", "Nothing")
    assert "--checkpoint-every" in hooks.on_page_markdown("<!-- help: train -->")


@needs_mkdocs
def test_docstrings_are_rewritten_as_they_say() -> None:
    module = script("docs/docstrings.py")
    result = doctest.testmod(module)
    assert (result.failed, result.attempted > 1) == (0, True)
    aligned = module.with_display_math(".. math::\n    a &= b \\\\\n    c &= d\n\nText")
    assert aligned == ("\n$$\n\\begin{aligned}\na &= b \\\\\nc &= d\n\\end{aligned}\n$$\n\nText")


# ---- what is written from results


def test_pages_are_what_results_say() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "docs.py", "--check"]
    assert subprocess.run(command, check=False).returncode == 0


def test_every_result_is_shown() -> None:
    text = "".join(map(Path.read_text, PAGES))
    kinds = set(re.findall(r"<!-- benchmark: (\w+), written", text))
    results = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert kinds == {name.split("-")[0] for name in results}


# ---- code


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def scripts() -> Iterator[pytest.ParameterSet]:
    """Blocks of Python, those that go on with another after it: one that imports torch begins."""
    for page in PAGES:
        found: list[str] = []
        for block in blocks(page, "python"):
            if "import torch\n" in block or not found:
                found.append("")
            found[-1] += f"{block}\n"
        for i, code in enumerate(found):
            yield pytest.param(code, id=f"{page.relative_to(DOCS)}-{i}")


@functools.cache
def load_libraries() -> None:
    """Those whose losses need no torchvision, which their packages ask for."""
    with contextlib.suppress(UnavailableError):
        import_peer("lightly", "lightly.loss")
    with contextlib.suppress(pytest.skip.Exception):
        open_clip_losses()


@pytest.mark.parametrize("code", list(scripts()))
@pytest.mark.filterwarnings("default")
def test_code_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            library = (getattr(node, "module", None) or node.names[0].name).split(".")[0]
            if library not in sys.modules and importlib.util.find_spec(library) is None:
                pytest.skip(f"{library} is not installed")
    load_libraries()
    torch.manual_seed(0)
    exec(compile(code, "<documentation>", "exec"), {"__name__": "documentation"})


@functools.cache
def help_of(command: str) -> str:
    """What ``python -m sslkern COMMAND --help`` prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit, match=r"^0$"):
        main([command, "--help"])
    return text.getvalue()


def test_commands_have_the_flags_that_are_shown() -> None:
    """Of ``python -m sslkern`` in blocks of bash and in text."""
    seen = set()
    for page in PAGES:
        text = re.sub(
            r"<!-- benchmark.*?<!-- /benchmark -->", "", page.read_text(), flags=re.DOTALL
        )
        for command, rest in re.findall(r"-m sslkern ([a-z]+)([^`\n]*)", text):
            seen.add(command)
            for flag in re.findall(r"(?<=\s)--[a-z-]+", rest):
                assert flag in help_of(command), f"{page.name}: {command} {flag}"
    assert {"info", "bench", "verify", "train", "model"} <= seen


def test_flags_of_the_tests_exist() -> None:
    options = (ROOT / "tests" / "conftest.py").read_text()
    shown = [re.findall(r"-m pytest(.*)", page.read_text()) for page in PAGES]
    flags = {flag for lines in shown for line in lines for flag in re.findall(r"--[a-z-]+", line)}
    assert {"--backends", "--every-case"} <= flags
    assert all(f'"{flag}"' in options for flag in flags)


def test_no_page_repeats_the_formula_of_a_docstring() -> None:
    """Formulas come from docstrings; pages of losses have none of their own."""
    for page in (DOCS / "losses").glob("*.md"):
        assert "$$" not in page.read_text()
        assert ".. math::" not in page.read_text()
