"""A static proof, by SentryWard, that kernels synchronise and do not race in any schedule.

It holds at the size of the launch that is recorded here. Kernels with branches on values in memory,
or with addresses that it cannot tell apart, it calls unsupported: those are left to the emulation.

    python tests/test_sentryward.py     tries every kernel of the operators below and prints a table
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import cuda_static
import emulation
import pytest
import torch

import sslkern

FINDINGS = {"potential_race", "not_wellsynced", "invalid_lifecycle"}

# What can be proved here, of the kernels that the calls below launch.
PROVED = ("largest_magnitude_kernel<float>", "sum_in_order_kernel<1024>")

pytestmark = [
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed"),
    pytest.mark.skipif(
        importlib.util.find_spec("sentryward") is None, reason="sentryward is not installed"
    ),
]


@cache
def launches() -> dict[str, emulation.Recorded]:
    """The first launch of every kernel that NT-Xent has, by short name."""
    library = emulation.library("ptx")
    library.record(True)
    library.start()
    z_a, z_b = torch.randn(2, 40, 60).unbind()
    sslkern.ntxent_loss(z_a.requires_grad_(), z_b, 0.1).backward()
    library.stop()
    recorded = library.launches()
    library.record(False)
    assert not library.findings()
    names = cuda_static.demangled(launch.kernel for launch in recorded)
    return dict(zip(reversed(names), reversed(recorded), strict=True))


def text_of(kernel: str) -> str:
    """The PTX of one kernel alone."""
    for path in emulation.ptx_files():
        text = path.read_text()
        found = re.search(rf"^\.visible \.entry {kernel}\(", text, re.MULTILINE)
        if found:
            end = text.find(".visible .entry", found.end())
            body = text[found.start() : end if end >= 0 else None]
            return text[: text.index(".visible .entry")] + body
    raise AssertionError(kernel)


def verdict(launch: emulation.Recorded, folder: Path, seconds: int = 120) -> tuple[str, object]:
    """The result field, and why: the exit code says nothing."""
    (folder / "kernel.ptx").write_text(text_of(launch.kernel))
    # Arguments are one struct. Pointers are given as addresses that are far apart.
    values = [word if word is not None else k + 1 << 34 for k, word in enumerate(launch.words)]
    arguments = [
        {"parameter": f"{launch.kernel}_param_0", "offset": 8 * k, "type": "u64", "value": value}
        for k, value in enumerate(values)
    ]
    shape: dict[str, object] = {"grid_dim": launch.grid, "block_dim": launch.block}
    if launch.dynamic_bytes:
        shape["dynamic_shared_bytes"] = launch.dynamic_bytes
    given = {"schema": "spverify.kernel-input/v1", "launch": shape, "arguments": arguments}
    (folder / "input.json").write_text(json.dumps(given))
    command = [sys.executable, "-m", "sentryward", "kernel.ptx", "--input", "input.json"]
    command += ["--timeout", str(seconds)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    result = json.loads(done.stdout)
    return result["result"], result["diagnostics"]


@pytest.mark.parametrize("kernel", PROVED)
def test_kernel_is_proved_free_of_races(kernel: str, tmp_path: Path) -> None:
    result, why = verdict(launches()[kernel], tmp_path)
    assert result == "race_free", why


def print_table(kernels: Iterable[str]) -> None:
    import tempfile

    for kernel in kernels:
        with tempfile.TemporaryDirectory() as folder:
            result, why = verdict(launches()[kernel], Path(folder))
        reason = "" if result == "race_free" else json.dumps(why)[:120]
        print(f"{kernel:<44} {result:<16} {reason}", flush=True)


if __name__ == "__main__":
    print_table(launches())
