"""Peak memory of one step, measured in a process of its own (`sslkern.bench.child`).

A fresh process per contender, because a peak cannot be told apart from what earlier contenders
left in the allocator. There: build the inputs; start the threads and load the libraries with a
tiny problem; reset the high-water mark; run once; the mark minus what was resident before is what
the step needed. The result and the gradients of the inputs are subtracted: every implementation
returns them.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sslkern.bench.contenders import Case, Contender, Problem, Size
from sslkern.bench.device import cuda_peak, reset_cuda_peak

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


@contextmanager
def freed_blocks_given_back() -> Iterator[None]:
    """Have every freed block of 64 KiB or more leave the process at once (glibc; else nothing).

    glibc raises its threshold of own mappings as large blocks are freed, and later serves such
    blocks from a heap that it keeps: what an earlier step left there would be used unseen. A fixed
    threshold costs time, so afterwards both thresholds are those that glibc itself comes to.
    """
    if not give_freed_blocks_back():
        yield
        return
    library: Any = ctypes.CDLL(None)
    library.malloc_trim(0)
    try:
        yield
    finally:
        library.mallopt(_M_MMAP_THRESHOLD, 2**25)
        library.mallopt(_M_TRIM_THRESHOLD, 2**26)


def give_freed_blocks_back() -> bool:
    """Do so from now on; whether this is glibc, where it can be done."""
    library: Any = ctypes.CDLL(None)
    if not hasattr(library, "malloc_trim"):
        return False
    library.mallopt(_M_MMAP_THRESHOLD, 2**16)
    return True


def measure_here(
    case: Case, contender: Contender, problem: Problem, device: str = "cpu"
) -> int | None:
    """Bytes beyond inputs and gradients, or None where the system does not tell.

    Measured in this process, which should have done nothing but smaller sizes before. On CUDA the
    mark is that of torch's allocator.
    """
    if contender.compiles:
        # Another size would compile another graph, and the compiler would be measured below.
        step = contender.prepare(problem)
        step()
    else:
        tiny = Size(min(problem.size.rows, case.tiny_rows), problem.size.dim)
        contender.prepare(case.problem(tiny, problem.dtype, device))()
        step = contender.prepare(problem)
    before = _reset_peak() if device == "cpu" else reset_cuda_peak()
    outcome = step()
    peak = _peak() if device == "cpu" else cuda_peak()
    if before is None or peak is None or outcome is None:
        return None
    returned = sum(x.numel() * x.element_size() for x in (outcome.loss, *outcome.grads))
    return max(0, peak - before - returned)


def _reset_peak() -> int | None:
    """Reset the high-water mark (Linux), and return it: what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        # Without a reset the mark is that of the whole process so far, which after imports and a
        # tiny problem is close to what is resident.
        return _peak()
    return _peak()


def _peak() -> int | None:
    """High-water mark of resident memory in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit or None
