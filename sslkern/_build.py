"""What was built, and how fast this machine can go at best."""

from __future__ import annotations

import torch

from sslkern._version import __version__
from sslkern.ops._extension import C, built_for


def build_config() -> dict[str, object]:
    """Version, torch built against, compiler, flags, instruction sets and CUDA architectures.

    Example:
        >>> import sslkern
        >>> "portable" in sslkern.build_config()["instruction_sets"]
        True
    """
    error = C.cuda_kernels_error()
    return {
        "version": __version__,
        **built_for(),
        **C.build_config(),
        "cuda_kernels": "loaded" if error == "" else error,
    }


def fma_peak(dtype: torch.dtype = torch.float32, threads: int | None = None) -> float:
    """Measured GFLOP/s of multiply-adds on L1-resident data: the ceiling for the kernels.

    Args:
        dtype: ``torch.float32`` or ``torch.float64``.
        threads: Number of threads, by default ``torch.get_num_threads()``.

    Raises:
        TypeError: For another dtype.

    Example:
        >>> import sslkern
        >>> sslkern.fma_peak(threads=1) > 0
        True
    """
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"sslkern::fma_peak: expected dtype to be torch.float32 or torch.float64, got {dtype}"
        )
    peak: float = C.fma_peak(float64=dtype == torch.float64, threads=threads or 0)
    return peak
