"""A static proof, by SentryWard, that kernels synchronise and do not race in any schedule.

It holds at the size of the launch that is recorded here. Kernels with branches on values in memory,
or with addresses that it cannot tell apart, it calls unsupported: those are left to the emulation.

    python tests/test_sentryward.py --op ntxent     tries each kernel and prints a table

Without --op those of all operators, which takes most of an hour; --seconds is for each kernel.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path

import cuda_static
import emulation
import pytest
from test_every_kernel import OPS, every_launch, from_small_to_large

# What can be proved here, and by which operator and dtype it is launched.
PROVED = {
    "largest_magnitude_kernel<float>": ("ntxent", "float32"),
    "sum_in_order_kernel<1024>": ("ntxent", "float32"),
    "product_sums_kernel<float>": ("barlow_twins", "float32"),
}

pytestmark = [
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed"),
    pytest.mark.skipif(
        importlib.util.find_spec("sentryward") is None, reason="sentryward is not installed"
    ),
]


@cache
def launches(op: str, dtype: str) -> dict[str, emulation.Recorded]:
    """The first launch of every kernel in the smallest case of an operator."""
    library = emulation.library("ptx")
    library.start()
    found = library.launches_by(from_small_to_large(op, dtype)[0].passes)
    library.stop()
    assert not library.findings()
    return first_by_kernel(found)


def first_by_kernel(launches: Iterable[emulation.Recorded]) -> dict[str, emulation.Recorded]:
    """By short name."""
    first: dict[str, emulation.Recorded] = {}
    for launch in launches:
        first.setdefault(launch.kernel, launch)
    return dict(zip(cuda_static.demangled(first), first.values(), strict=True))


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
    result, why = verdict(launches(*PROVED[kernel])[kernel], tmp_path)
    assert result == "race_free", why


def print_table(seconds: int, ops: Collection[str]) -> None:
    for kernel, launch in first_by_kernel(every_launch(ops)).items():
        with tempfile.TemporaryDirectory() as folder:
            result, why = verdict(launch, Path(folder), seconds)
        reason = "" if result == "race_free" else json.dumps(why)[:120]
        print(f"{kernel:<60} {result:<16} {reason}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--op", choices=OPS)
    parser.add_argument("--seconds", type=int, default=20)
    given = parser.parse_args()
    print_table(given.seconds, OPS if given.op is None else [given.op])
