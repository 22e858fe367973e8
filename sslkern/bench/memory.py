"""Peak memory of one forward and backward, measured in a process of its own.

``python -m sslkern.bench.memory '<job as JSON>'`` prints one line of JSON.

A fresh process per contender, because a peak cannot be told apart from what earlier contenders
left in the allocator. There: build the inputs; start the threads and load the libraries with a
tiny problem; reset the high-water mark; run once; the mark minus what was resident before is what
the step needed. The result and the gradients of the inputs are subtracted: every implementation
returns them.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from sslkern.bench.contenders import Case, Contender, Problem, Size
from sslkern.bench.device import cuda_peak, reset_cuda_peak

_TIMEOUT_S = 900


@dataclass(frozen=True)
class Job:
    """What the child process measures; plain values, because they travel as JSON."""

    loss: str
    contender: str
    rows: int
    dim: int
    dtype: str
    threads: int
    device: str = "cpu"


def measure(job: Job) -> int | None:
    """Bytes beyond inputs and gradients, or None where the system does not tell.

    Raises:
        RuntimeError: If the child fails; with the last line it wrote.
    """
    # glibc raises its mmap threshold as large blocks are freed, and later serves such blocks from a
    # heap that it keeps. A fixed threshold gives every freed tensor back at once, so that a warm-up
    # leaves nothing behind for the measured step to use unseen.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", __spec__.name, json.dumps(asdict(job))]
    child = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if child.returncode != 0:
        last = (child.stderr.strip().splitlines() or [f"exit code {child.returncode}"])[-1]
        raise RuntimeError(f"memory measurement: {last}")
    peak: int | None = json.loads(child.stdout.splitlines()[-1])["peak_bytes"]
    return peak


def measure_here(
    case: Case, contender: Contender, problem: Problem, device: str = "cpu"
) -> int | None:
    """Measure in this process, which should have done nothing before.

    On CUDA the mark is that of torch's allocator.
    """
    if contender.compiles:
        # Another size would compile another graph, and the compiler would be measured below.
        step = contender.prepare(problem)
        step()
    else:
        tiny = Size(min(problem.size.rows, 64), problem.size.dim)
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


def main(argument: str) -> None:
    """Run the job given as JSON and print the result as JSON."""
    from sslkern.bench import CASES

    job = Job(**json.loads(argument))
    torch.set_num_threads(job.threads)
    case = CASES[job.loss]
    contender = next(c for c in case.contenders if c.name == job.contender)
    problem = case.problem(Size(job.rows, job.dim), getattr(torch, job.dtype), job.device)
    print(json.dumps({"peak_bytes": measure_here(case, contender, problem, job.device)}))


if __name__ == "__main__":
    main(sys.argv[1])
