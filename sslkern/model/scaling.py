"""What sharing a batch among processes costs, as a model: bytes sent, peak memory, time.

Bytes are counted from what `sslkern.parallel` sends, and are exact. Memory is what is alive at the
peak: whole blocks of rows, not the few numbers that belong to a row. Time is that of the kernels'
own model (`sslkern.model`) and of links that are given by what they could at best: nothing here has
run on a GPU or with NCCL.

All ranks have as many rows. n pairs on each of W ranks, N = n W in all, D features; e bytes of an
element, a of a sum (4, or 8 for float64).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sslkern.ops._extension import C
from sslkern.parallel.agreement import BYTES

STATISTICS = 24  # of a row, three float64: log-sum-exp, sum of logits, their number
IDS = 8
UPSTREAM = 16  # of a row in the backward pass: two float64, and a gradient of a bytes
REDUCED = 32  # the sum and the number of rows, two float64, in either pass


@dataclass(frozen=True)
class Loss:
    """How a loss uses `sslkern.parallel.softmax`."""

    views: int
    """Rows that meet all others, of a pair: one, whose keys are the other; or both."""
    once: bool
    """Whether two ranks meet once, for the sums of both: where the keys are the rows themselves.

    Else each rank meets all, and what its keys collect is brought home.
    """
    products: int
    """Of rows x rows x D in one process: NT-Xent computes half of a symmetric matrix."""
    own_products: int
    """More of a rank's own rows: among themselves they meet from both sides."""

    def flop(self, pairs: int, dim: int, processes: int) -> float:
        """Operations of all products of a batch, forward and backward, on the CPU."""
        products = self.products + (self.own_products / processes if processes > 1 else 0)
        return 2 * products * (self.views * pairs) ** 2 * dim


LOSSES = {
    "ntxent": Loss(2, once=True, products=2, own_products=1),
    "clip": Loss(1, once=False, products=4, own_products=0),
    "info_nce": Loss(1, once=False, products=4, own_products=0),
}
"""InfoNCE: symmetric."""


@dataclass(frozen=True)
class Share:
    """A rank's share of a batch."""

    loss: Loss
    processes: int
    rows: int
    dim: int
    element: int = 2
    total: int = 4

    @property
    def block(self) -> int:
        """Elements of what travels: the rows of a rank that meet all others."""
        return self.loss.views * self.rows * self.dim

    @property
    def rounds(self) -> int:
        """Other ranks whose rows a rank meets."""
        return self.processes // 2 if self.loss.once else self.processes - 1


# ---- bytes sent


def sent(share: Share, strategy: str) -> dict[str, int]:
    """Bytes that a rank sends to others, forward and backward, by collective.

    Of ranks that are opposite in the ring and meet once, the one that sends more.
    """
    others = share.processes - 1
    brings, home = (
        sum(x) for x in zip(_row_bytes(share, False), _row_bytes(share, True), strict=True)
    )
    found = {"all-gather": others * BYTES, "all-reduce": REDUCED}
    # What is collected on other ranks begins its way here: it goes all around, or home at once.
    home *= share.rounds if share.loss.once else share.processes
    if strategy == "ring":
        return found | {"ring": share.rounds * brings + home}
    found["all-gather"] += others * brings
    if share.loss.once:
        return found | {"ring": home}
    return found | {"all-to-all": home // share.processes * others}


# ---- memory


def peak_bytes(share: Share, strategy: str, scratch: float) -> float:
    """Peak beyond inputs, loss and gradients, of three ranks or more.

    Args:
        share: Of the rank.
        strategy: ``gather`` or ``ring``.
        scratch: Of the backward kernel, for the rows of one rank against those of another.
    """
    phases = _ring_phases(share) if strategy == "ring" else _gather_phases(share)
    return max(use + part * scratch for use, part in phases)


def _kept(share: Share) -> int:
    """Alive throughout the backward pass, less the gradients that are returned."""
    e, a, block = share.element, share.total, share.block
    if share.loss.once:
        # Both views joined; gradients of the positives, as large as those returned, are there.
        return a * block + e * block
    return a * block - 2 * e * block  # sums of the queries' gradient


def _ring_phases(share: Share) -> list[tuple[float, float]]:
    """Bytes, and how much of the kernel's scratch is there, too."""
    e, a, block = share.element, share.total, share.block
    found = 2 * e * block
    there = 2 * e * block  # the block at work and the one that arrives
    travelling = 2 * a * block  # leaves, arrives
    if not share.loss.once or share.rounds > 2:
        return [(_kept(share) + there + travelling + found, 1)]
    # In the last round nothing arrives any more, in the first nothing has been collected; ranks
    # that are opposite each take half of what they have to do.
    part = 0.75 if share.processes % 2 == 0 else 1
    first = _kept(share) + there + found if share.rounds > 1 else 0
    last = _kept(share) + there / 2 + part * found + (travelling if share.rounds > 1 else 0)
    return [(first, 1), (last, part)]


def _gather_phases(share: Share) -> list[tuple[float, float]]:
    """The same."""
    e, a, block, count = share.element, share.total, share.block, share.processes
    found = 2 * e * block
    collected = (count - 1) * a * block
    if share.loss.once:
        collected = 2 * a * block if share.rounds > 2 else 0
    phases: list[tuple[float, float]] = [
        (_kept(share) + count * e * block + collected + found, 1),
        (_kept(share) + 2 * count * e * block, 0),  # gathered, and torch's own flat copy
    ]
    if not share.loss.once:  # what is collected, joined, and what arrives of it
        phases.append((_kept(share) + 3 * count * a * block, 0))
    return phases


# ---- time on GPUs


@dataclass(frozen=True)
class Network:
    """Links by what they could at best, in bytes per second and direction."""

    node: int = 8
    inside: float = 450e9
    """NVLink of an H100, all 18 links."""
    outside: float = 50e9
    """A 400 Gb/s adapter for each GPU."""
    achieved: float = 0.8
    latency: float = 10e-6
    """Of a message in the ring."""

    def ring(self, processes: int) -> float:
        """Of the slowest link: between nodes a neighbour has one adapter."""
        return self.achieved * (self.inside if processes <= self.node else self.outside)

    def all_gather(self, processes: int) -> float:
        """Of what a rank receives: all adapters of a node carry rows that all of it needs."""
        slowest = self.node * self.outside
        return self.achieved * (
            self.inside if processes <= self.node else min(slowest, self.inside)
        )

    def all_to_all(self, processes: int) -> float:
        """Of what a rank sends: all but the part for its own node goes through its adapter."""
        if processes <= self.node:
            return self.achieved * self.inside
        crosses = (processes - self.node) / (processes - 1)
        return self.achieved * self.outside / crosses


@dataclass(frozen=True)
class Kernels:
    """Seconds per pair of rows, of each pass of a block that fills the GPU."""

    forward: float
    backward: float


@dataclass(frozen=True)
class Machine:
    """GPUs, what connects them, and the host."""

    network: Network = Network()
    multiprocessors: int = 132
    memory: float = 80e9
    tile: int = 128
    host: float = 100e-6
    """Of a block in a pass: Python, the dispatcher, launches. An assumption."""
    blocks: int = 1024
    """Thread blocks that a launch is split into where rows suffice."""

    def filling(self, rows: int) -> float:
        """Times longer than if tiles were full and all multiprocessors had one."""
        tiles = math.ceil(rows / self.tile)
        splits = min(max(self.blocks // tiles, 1), tiles)
        used = min(self.multiprocessors, tiles * splits)
        return (tiles * self.tile / rows) ** 2 * self.multiprocessors / used

    def scratch(self, share: Share) -> float:
        """Of the backward kernels on a block: packed rows and keys, products, a chunk."""
        elements = share.block * (2 * share.element + 2 * share.total)
        return elements + self.part(share, share.loss.views * share.rows, adds=True)

    def part(self, share: Share, rows: int, *, adds: bool) -> int:
        """What is in memory of the similarities' gradient of so many rows with as many."""
        columns = math.ceil(rows / self.tile) * self.tile
        at_once: int = C.gradient_rows(rows, columns, share.dim, share.element, adds)
        return at_once * columns * share.element


@dataclass(frozen=True)
class Time:
    """Seconds of forward and backward, and what most of them are: the limit."""

    seconds: float
    limit: str


def single_seconds(share: Share, kernels: Kernels, machine: Machine) -> float:
    """One GPU with the whole batch."""
    rows = share.loss.views * share.rows * share.processes
    return (kernels.forward + kernels.backward) * rows**2 * machine.filling(rows)


def single_peak(share: Share, machine: Machine) -> float:
    """Of one GPU with the whole batch: packed rows, products, a chunk."""
    elements = (2 if share.loss.views == 1 else 1) * share.block * share.processes
    rows = share.loss.views * share.rows * share.processes
    part = machine.part(share, rows, adds=share.loss.views == 1)
    return elements * (share.element + share.total) + part


def shared_seconds(share: Share, strategy: str, kernels: Kernels, machine: Machine) -> Time:
    """Of every rank, all of which start together."""
    find = _ring_parts if strategy == "ring" else _gather_parts
    parts = {"compute": 0.0, "network": 0.0, "host": 0.0}
    for backward in (False, True):
        for limit, seconds in find(share, kernels, machine, backward).items():
            parts[limit] += seconds
    return Time(sum(parts.values()), max(parts, key=lambda limit: parts[limit]))


def _block_seconds(share: Share, kernels: Kernels, machine: Machine, backward: bool) -> float:
    rows = share.loss.views * share.rows
    per_pair = kernels.backward if backward else kernels.forward
    return per_pair * rows**2 * machine.filling(rows)


def _row_bytes(share: Share, backward: bool) -> tuple[int, int]:
    """Of what a block brings, and of what it takes home."""
    rows = share.loss.views * share.rows
    brings = share.block * share.element + rows * IDS
    brings += rows * (share.total + UPSTREAM) if backward else 0
    return brings, share.block * share.total if backward else rows * STATISTICS


def _ring_parts(
    share: Share, kernels: Kernels, machine: Machine, backward: bool
) -> dict[str, float]:
    """A step takes as long as the slowest of work, transfer and host, which overlap."""
    brings, home = _row_bytes(share, backward)
    rate = machine.network.ring(share.processes)
    step = {
        "compute": _block_seconds(share, kernels, machine, backward),
        "network": (brings + home) / rate + machine.network.latency,
        "host": machine.host,
    }
    limit = max(step, key=lambda name: step[name])
    found = {limit: (share.rounds + 1) * step[limit]}
    last = home / rate  # nothing is left to do meanwhile
    return found | {"network": found.get("network", 0.0) + last}


def _gather_parts(
    share: Share, kernels: Kernels, machine: Machine, backward: bool
) -> dict[str, float]:
    """Gather, work, bring home: one after the other."""
    brings, home = _row_bytes(share, backward)
    network, others = machine.network, share.processes - 1
    moved = others * brings / network.all_gather(share.processes)
    moved += share.rounds * home / network.all_to_all(share.processes)
    work = _block_seconds(share, kernels, machine, backward)
    limit = "compute" if work >= machine.host else "host"
    return {limit: (share.rounds + 1) * max(work, machine.host), "network": moved}


def rows_to_hide(share: Share, kernels: Kernels, machine: Machine) -> int:
    """Pairs of a rank from which on the ring's work outlasts its transfers, in both passes.

    Of blocks that fill the GPU, without latencies.
    """
    rate = machine.network.ring(share.processes)
    views = share.loss.views
    needed = 0.0
    for backward in (False, True):
        bytes_of_pair = sum(_row_bytes(share, backward)) / share.rows
        per_pair = kernels.backward if backward else kernels.forward
        needed = max(needed, bytes_of_pair / rate / (per_pair * views**2))
    return math.ceil(needed)


def largest_batch(share: Share, budget: float, machine: Machine) -> int:
    """Pairs of all ranks with which gathering needs the budget, beyond inputs and gradients.

    By the terms that grow with the batch alone.
    """
    one, two = (max(use for use, _ in _gather_phases(_of(share, count))) for count in (1024, 2048))
    per_pair = (two - one) / (1024 * share.rows)
    return int(budget / per_pair)


def _of(share: Share, processes: int) -> Share:
    return Share(share.loss, processes, share.rows, share.dim, share.element, share.total)
