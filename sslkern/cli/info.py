"""``python -m sslkern info``: what was built, what is there, what is missing and what to do.

Prints with nothing but the standard library: it has to work where other things do not.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping

import numpy as np
import torch

from sslkern._version import __version__
from sslkern.bench.environment import cpu_model, usable_cores
from sslkern.bench.peers import PEERS, installed_version

DESCRIPTION = """\
Shows what was built (compiler, flags, instruction sets), what it runs on, and which optional
packages and peers are installed. For everything that is missing it says what to do. Works, and
says why, when the extension itself does not import."""

EXTRAS = {
    "rich": "pip install 'sslkern[bench]'",
    "matplotlib": "pip install 'sslkern[bench]'",
    "scikit-learn": "pip install 'sslkern[train]'",
}

Section = dict[str, object]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``info`` to the command line."""
    parser = subparsers.add_parser(
        "info", help="show what was built and what is missing", description=DESCRIPTION
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if the extension does not import."""
    report = collect()
    print(json.dumps(report, indent=2) if args.json else _as_text(report))
    return 0 if "error" not in report["extension"] else 1


def collect() -> dict[str, Section]:
    """Everything that ``info`` shows, in sections."""
    extension = _extension()
    packages = _packages()
    report = {"extension": extension, "machine": _machine(), "packages": packages}
    missing = _missing(extension, packages)
    return report | ({"missing": missing} if missing else {})


def _extension() -> Section:
    """The build configuration, or why there is none."""
    try:
        from sslkern._build import build_config

        return dict(build_config())
    except (ImportError, OSError) as error:  # not built, built for another torch, another libc
        return {"version": __version__, "error": f"{type(error).__name__}: {error}"}


def _machine() -> Section:
    return {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "openmp": torch.backends.openmp.is_available(),  # type: ignore[no-untyped-call]
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "cuda_device": torch.cuda.get_device_name() if _has_cuda() else "none",
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _has_cuda() -> bool:
    return torch.cuda.is_available()


def _packages() -> Section:
    """Versions of what is optional; None for what is not installed."""
    found: Section = {name: installed_version(peer) for name, peer in PEERS.items()}
    for name in EXTRAS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _missing(extension: Section, packages: Section) -> Section:
    """What is absent or idle, and the remedy."""
    remedies = EXTRAS | {name: peer.install for name, peer in PEERS.items()}
    missing: Section = {name: remedies[name] for name, version in packages.items() if not version}
    if "error" in extension:
        missing["extension"] = (
            f"build it for torch {torch.__version__}, in a checkout:"
            " pip install --no-build-isolation --force-reinstall --no-deps ."
        )
        return missing
    if not extension["openmp"]:
        missing["openmp"] = "kernels run on one thread: rebuild with a compiler that has OpenMP"
    if _has_cuda() and extension["cuda_kernels"] != "loaded":
        missing["cuda"] = (
            f"a CUDA device is there, but its kernels do not load ({extension['cuda_kernels']}):"
            " rebuild with nvcc on the path"
        )
    return missing


def _as_text(report: Mapping[str, Section]) -> str:
    width = max(len(name) for section in report.values() for name in section)
    blocks = []
    for title, section in report.items():
        absent = "not installed" if title == "packages" else "none"
        rows = [f"  {name:<{width}}  {_value(value, absent)}" for name, value in section.items()]
        blocks.append("\n".join([title, *rows]))
    return "\n\n".join(blocks)


def _value(value: object, absent: str) -> str:
    if value is None:
        return absent
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or absent
    return str(value).strip()
