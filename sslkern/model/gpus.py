"""The published ceilings of GPUs, for planning.

Rates are of one multiprocessor and clock. Where nothing better is published, a number is the
nominal one: no kernel reaches all of them at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """A GPU, as far as a roofline needs to know it."""

    name: str
    multiprocessors: int
    clock: float  # Hz, at which the dense peak of matrix instructions is published
    matrix: dict[str, float]  # operations by type, dense peak
    mma_share: float  # of that peak, which mma.sync reaches
    fp32: float  # instructions of a lane
    fp64: float
    integer: float
    special: float
    convert: float
    l2_bytes: float  # per second
    dram_bytes: float  # per second
    shared_bytes: int  # that a block may have
    sources: tuple[str, ...]

    issue = 4.0  # warp instructions: one per scheduler
    shared = 1.0  # wavefronts of 128 bytes

    @property
    def cycles(self) -> float:
        """Of all multiprocessors, per second."""
        return self.multiprocessors * self.clock

    def dense(self, kind: str) -> float:
        """Operations per second of matrix instructions of a type, by the fastest instruction."""
        return self.matrix[kind] * self.cycles


_GUIDE = (
    "nominal rates of the CUDA C++ Programming Guide by compute capability, not looked up again"
)

GPUS = {
    "h100": Gpu(
        name="H100 SXM",
        multiprocessors=132,
        clock=1.83e9,
        matrix={"bf16": 4096.0, "f16": 4096.0, "tf32": 2048.0, "f64": 256.0},
        mma_share=0.629,
        fp32=128.0,
        fp64=64.0,
        integer=64.0,
        special=16.0,
        convert=64.0,
        l2_bytes=5120 * 1.755e9,
        dram_bytes=3.35e12,
        shared_bytes=227 << 10,
        sources=(
            "multiprocessors, clock, dense peak (989 TFLOP/s bf16), DRAM: NVIDIA H100 data sheet",
            "mma.sync 62.9 % of the dense peak: average of Luo et al., arXiv:2501.12084, section"
            " 6.2, measured on an H800 PCIe; quoted from a survey, not read in the paper",
            f"fp32, fp64, integer, special, conversions: {_GUIDE}",
            "L2 5120 bytes per clock: NVIDIA A100 whitepaper, and for Hopper as tabulated in"
            " PMC10448217, table 3; not published by NVIDIA for H100",
        ),
    ),
    "a100": Gpu(
        name="A100 SXM 80 GB",
        multiprocessors=108,
        clock=1.41e9,
        matrix={"bf16": 2048.0, "f16": 2048.0, "tf32": 1024.0, "f64": 128.0},
        mma_share=1.0,
        fp32=64.0,
        fp64=32.0,
        integer=64.0,
        special=16.0,
        convert=16.0,
        l2_bytes=5120 * 1.41e9,
        dram_bytes=2.039e12,
        shared_bytes=163 << 10,
        sources=(
            "multiprocessors, clock, dense peak (312 TFLOP/s bf16), L2, DRAM: NVIDIA A100"
            " whitepaper and data sheet",
            "mma.sync: its native instruction, taken at the dense peak",
            f"fp32, fp64, integer, special, conversions: {_GUIDE}",
        ),
    ),
}
