"""Mutants of the kernels' PTX: would the tests notice if a barrier were missing?

One instruction of a kernel is deleted or corrupted, the operators that launch it are compared with
their float64 references on the emulation, and the mutant is killed by a miss, a finding or a crash.
Mutants of synchronisation, shuffles and matrix instructions must all be killed, but those of
`mutants.EQUIVALENT`; those of bounds, each shifted by one, may be equivalent. Of a survivor is said
whether its instruction was reached at all.

    python tests/mutation.py --op all                        every mutant of every kernel: hours
    python tests/mutation.py --op ntxent,dcl --sample 20     some of the kernels of two operators
    python tests/mutation.py --op ntxent --kernel fwd --kinds barrier,wait
    python tests/mutation.py --op supcon --kinds matrix --each 3    some of every kernel
    python tests/mutation.py --op sinkhorn --equivalent             what nobody should notice
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, groupby
from pathlib import Path

import cuda_static
import emulation
import torch
from kernel_cases import TF32, Case, Sizes, cases_of
from mutants import KINDS, MUST_DIE, Mutant, mutants, text_of_kernel

import sslkern.ops._extension as extension
from sslkern.cli.arguments import DTYPES
from sslkern.verification.forms import FORMS

MOST_STEPS = 300_000_000
SECONDS_OF_AN_ELEMENT = 5e-5  # of N x D, in which a case is compared: about, before it was
COLUMN_BLOCKS = 3  # blocks that share a row of tiles: few, so that each walks along several


@dataclass
class Attempt:
    """A case on the mutants of one kernel, and what became of it so far."""

    case: Case
    seconds: float
    times: int = 0
    kills: int = 0

    @property
    def seconds_of_a_kill(self) -> float:
        """To be expected, after Laplace's rule of succession."""
        return self.seconds * (self.times + 2) / (self.kills + 1)


class Trial:
    """The cases of some operators on a library of PTX, by the kernels that they launch."""

    def __init__(self, ops: Sequence[str], dtypes: Sequence[str], sizes: Sizes) -> None:
        self.library = emulation.library("ptx")
        self.attempts_of: dict[str, list[Attempt]] = {}
        self.library.most_steps(1)  # what is launched does not depend on results
        for case in chain.from_iterable(cases_of(op, dtypes, sizes) for op in ops):
            seconds = SECONDS_OF_AN_ELEMENT * case.size[0] * case.size[1]
            for kernel in self.library.launched_by(partial(self.passes, case)):
                self.attempts_of.setdefault(kernel, []).append(Attempt(case, seconds))
        self.library.most_steps(MOST_STEPS)
        self.sound: dict[Case, float] = {}  # what passes without a mutant, in so many seconds
        self.running = mmap.mmap(-1, 8)  # the number of the attempt, seen by parent and child

    def _check(self, attempt: Attempt) -> None:
        """That the kernels as they are pass what has killed a mutant."""
        case = attempt.case
        if case not in self.sound:
            begin = time.perf_counter()
            assert self.passes(case), (case.about, case.size)
            self.sound[case] = time.perf_counter() - begin
        attempt.seconds = self.sound[case]

    def passes(self, case: Case) -> bool:
        self.library.start()
        extension.C.set_column_blocks(COLUMN_BLOCKS)
        try:
            agree = case.passes()
        except (RuntimeError, ValueError, AssertionError):
            agree = False
        finally:
            extension.C.set_column_blocks()
            self.library.stop()
        return not self.library.findings() and agree

    def kills(self, mutant: Mutant) -> bool:
        """First comes what is expected to kill soonest, after the kernel's other mutants."""
        attempts = self.attempts_of[mutant.kernel]
        attempts.sort(key=lambda attempt: attempt.seconds_of_a_kill)
        survives = self._survives_here if mutant.kind == "matrix" else self._survives_in_a_child
        dies = not survives(mutant)
        last = int.from_bytes(self.running[:])
        if dies:
            self._check(attempts[last])
        for attempt in attempts[: last + 1]:
            attempt.times += 1
        attempts[last].kills += dies
        return dies

    def _survives_here(self, mutant: Mutant) -> bool:
        """Where nothing but numbers can be wrong."""
        try:
            return self._survives(mutant)
        finally:
            self._load(text_of_kernel(mutant.kernel), now=False)

    def _survives_in_a_child(self, mutant: Mutant) -> bool:
        """In a process of its own, which it may crash and whose memory is given back."""
        child = os.fork()
        if child == 0:
            status = 2
            try:
                status = int(self._survives(mutant))
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status != 2, mutant
        return status == 1

    def _survives(self, mutant: Mutant) -> bool:
        self._load(mutant.text(), now=True)
        for number, attempt in enumerate(self.attempts_of[mutant.kernel]):
            self.running[:] = number.to_bytes(8)
            if not self.passes(attempt.case):
                return False
        return True

    def _load(self, text: str, now: bool) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
            file.write(text)
            file.flush()
            self.library.load_ptx(Path(file.name), now)


@cache
def trial_of(ops: tuple[str, ...], dtypes: tuple[str, ...], sizes: Sizes) -> Trial:
    return Trial(ops, dtypes, sizes)


def some_of_each(every: Sequence[Mutant], most: int, chance: random.Random) -> list[Mutant]:
    """At most so many of each kernel and kind."""
    groups: dict[tuple[str, str], list[Mutant]] = {}
    for mutant in every:
        groups.setdefault((mutant.kernel, mutant.kind), []).append(mutant)
    return [m for group in groups.values() for m in chance.sample(group, min(most, len(group)))]


def run(
    ops: Sequence[str],
    kernel: str,
    kinds: Sequence[str],
    sample: int | None = None,
    seed: int = 0,
    dtypes: Sequence[str] = (*DTYPES, TF32),
    each: int | None = None,
    sizes: Sizes = (),
    equivalent: bool = False,
) -> list[Mutant]:
    """Prints a line for each kernel and survivor, and a table; those that should have died.

    Of all mutants, or a sample of them, or of ``each`` kernel and kind at most so many. Or of those
    of EQUIVALENT: what dies does not belong there.
    """
    torch.set_num_threads(1)  # a forked process waits for ever for OpenMP's threads: it has none
    trial = trial_of(tuple(ops), tuple(dtypes), tuple(sizes))
    names = dict(zip(trial.attempts_of, cuda_static.demangled(trial.attempts_of), strict=True))
    chosen = [k for k in names if re.search(kernel, names[k])]
    every = [m for k in chosen for m in mutants(k, equivalent) if m.kind in kinds]
    assert every, "no kernel has such mutants"
    chance = random.Random(seed)
    if each is not None:
        every = some_of_each(every, each, chance)
    if sample is not None and sample < len(every):
        every = chance.sample(every, sample)
    every.sort(key=lambda mutant: names[mutant.kernel])
    total, killed, wrong = Counter[str](), Counter[str](), list[Mutant]()
    for name, group in groupby(every, lambda mutant: names[mutant.kernel]):
        before = killed.total(), total.total()
        for mutant in group:
            total[mutant.kind] += 1
            dies = trial.kills(mutant)
            killed[mutant.kind] += dies
            if mutant.kind in MUST_DIE and dies == equivalent:
                wrong.append(mutant)
                print(f"{_what_became_of(mutant, dies, trial)}: {name}, {mutant}", flush=True)
        counts = killed.total() - before[0], total.total() - before[1]
        print(f"{name}: {counts[0]} of {counts[1]} killed", flush=True)
    for kind in KINDS:
        if total[kind]:
            print(f"{kind:<8} {killed[kind]} of {total[kind]} killed")
    return wrong


def _what_became_of(mutant: Mutant, dies: bool, trial: Trial) -> str:
    if dies:
        return "noticed"
    return "not noticed" if trial.kills(mutant.trap()) else "not reached"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--op", default="all", help="one or several, or all")
    parser.add_argument("--kernel", default="", help="regular expression of names")
    parser.add_argument("--dtypes", default=",".join((*DTYPES, TF32)))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--sizes", default="", help="rows x dims, as 120x60: cases of these alone")
    parser.add_argument("--sample", type=int, help="so many in all")
    parser.add_argument("--each", type=int, help="at most so many of each kernel and kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--equivalent", action="store_true", help="those of EQUIVALENT alone")
    given = parser.parse_args()
    every = dict.fromkeys(form.op for form in FORMS)
    ops = list(every) if given.op == "all" else given.op.split(",")
    kinds, dtypes = given.kinds.split(","), given.dtypes.split(",")
    sizes = [(int(n), int(dim)) for n, dim in re.findall(r"(\d+)x(\d+)", given.sizes)]
    which = given.sample, given.seed, dtypes, given.each, sizes, given.equivalent
    return int(bool(run(ops, given.kernel, kinds, *which)))


if __name__ == "__main__":
    raise SystemExit(main())
