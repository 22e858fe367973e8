"""Peak memory of one forward and backward, measured in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass

from sslkern.bench.child import Child, EndedError, Task
from sslkern.bench.contenders import Size, UnavailableError

_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Job:
    """What the process measures."""

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
        RuntimeError: If the process fails, with the reason.
    """
    task = Task(job.loss, job.contender, job.dtype, job.threads, job.device)
    try:
        with Child(task) as child:
            size = Size(job.rows, job.dim)
            return child.peak(size, forward_alone=False, timeout_s=_TIMEOUT_S)
    except (EndedError, UnavailableError) as error:
        raise RuntimeError(f"memory measurement: {error}") from error
