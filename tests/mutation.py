"""Mutants of the kernels' PTX: would the tests notice if a barrier were missing?

One instruction of a kernel is deleted or corrupted, the operators that launch it are compared with
their float64 references on the emulation, and the mutant is killed by a miss or a finding. Mutants
of synchronisation, shuffles and matrix instructions must all be killed; those of bounds, each
shifted by one, may be equivalent.

    python tests/mutation.py --op ntxent                     every mutant of its kernels
    python tests/mutation.py --op ntxent --sample 20         some of them
    python tests/mutation.py --op ntxent --kernel fwd --kinds barrier,wait
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

import cuda_static
import emulation
import torch
from test_sentryward import text_of

from sslkern.cli import verify
from sslkern.cli.arguments import DTYPES
from sslkern.verification.forms import FORMS

ARCHITECTURE = 80
# Ragged, of several tiles, with rows of one, two and many chunks: those stay in shared memory or
# stream through it.
SIZES = ((6, 8), (130, 127), (258, 40), (140, 300))
KINDS = ("barrier", "wait", "commit", "shuffle", "matrix", "bound")
MUST_DIE = KINDS[:-1]
MOST_STEPS = 300_000_000


@dataclass(frozen=True)
class Mutant:
    kernel: str  # mangled
    kind: str
    line: int  # of the kernel's own text
    before: str
    after: str


def mutants(kernel: str) -> Iterator[Mutant]:
    """All of one kernel."""
    for number, line in enumerate(text_of(kernel).splitlines()):
        text = line.strip()
        for kind, after in _mutations(text):
            yield Mutant(kernel, kind, number, text, after)


def _mutations(text: str) -> Iterator[tuple[str, str]]:
    if text.startswith("bar.sync"):
        yield "barrier", ""
    elif text.startswith("cp.async.wait_group"):
        yield "wait", ""
    elif text.startswith("cp.async.commit_group"):
        yield "commit", ""
    elif "shfl.sync.bfly" in text:
        yield "shuffle", text.replace("bfly", "up")
    elif text.startswith("mma.sync"):
        registers = re.findall(r"\{[^}]*\}", text)
        a = registers[1][1:-1].split(",")
        swapped = "{" + ",".join([a[0], a[2], a[1], a[3]]) + "}"
        yield "matrix", text.replace(registers[1], swapped)
    found = re.match(r"setp\.(lt|ge|gt|le)\.[su](32|64)\s", text)
    if found:
        other = {"lt": "le", "ge": "gt", "gt": "ge", "le": "lt"}[found[1]]
        yield "bound", text.replace(f"setp.{found[1]}.", f"setp.{other}.", 1)


def settings_of(op: str, dtypes: Sequence[str]) -> list[verify.Setting]:
    """Few of each: what decides which kernel is launched is mostly the dtype."""
    asked = [getattr(torch, name) for name in dtypes]
    every = [s for form in FORMS if form.op == op for s in verify.settings(form, asked)]
    return [s for s in every if s.temperature in (None, 0.1, 0.005)]


class Trial:
    """An operator's comparisons, one setting and size at a time, on a library of PTX."""

    def __init__(self, op: str, dtypes: Sequence[str]) -> None:
        self.library = emulation.library(f"ptx-{ARCHITECTURE}")
        self.cases = [(s, size) for s in settings_of(op, dtypes) for size in SIZES]
        self.cases_of: dict[str, list[tuple[verify.Setting, tuple[int, int]]]] = {}
        for case in self.cases:
            self.library.record(True)
            assert self.passes(*case), case
            for launch in self.library.launches():
                cases = self.cases_of.setdefault(launch.kernel, [])
                if case not in cases:
                    cases.append(case)
        self.library.record(False)

    def passes(self, setting: verify.Setting, size: tuple[int, int]) -> bool:
        self.library.start()
        try:
            with mock.patch.object(verify, "SIZES", (size,)):
                agree = all(
                    check.agreement.passed for check in verify.checks(setting, torch.device("cpu"))
                )
        except (RuntimeError, ValueError, AssertionError):
            agree = False
        finally:
            self.library.stop()
        return not self.library.findings() and agree

    def kills(self, mutant: Mutant, folder: Path) -> bool:
        lines = text_of(mutant.kernel).splitlines()
        original = folder / "original.ptx"
        original.write_text("\n".join(lines))
        lines[mutant.line] = lines[mutant.line].replace(mutant.before, mutant.after)
        changed = folder / "mutant.ptx"
        changed.write_text("\n".join(lines))
        self.library.load_ptx(changed)
        self.library.most_steps(MOST_STEPS)
        try:
            return any(not self.passes(*case) for case in self._order(mutant))
        finally:
            self.library.load_ptx(original)

    def _order(self, mutant: Mutant) -> list[tuple[verify.Setting, tuple[int, int]]]:
        """Few cases that differ much first: most mutants die at once."""
        cases = self.cases_of[mutant.kernel]
        return cases[1::4] + cases[2::4] + cases[3::4] + cases[0::4]


@cache
def trial_of(op: str, dtypes: tuple[str, ...]) -> Trial:
    return Trial(op, dtypes)


def run(
    op: str,
    kernel: str,
    kinds: Sequence[str],
    sample: int | None,
    seed: int,
    dtypes: Sequence[str] = tuple(DTYPES),
) -> list[Mutant]:
    """Prints a table; the mutants that should have died and did not."""
    trial = trial_of(op, tuple(dtypes))
    names = dict(zip(trial.cases_of, cuda_static.demangled(trial.cases_of), strict=True))
    chosen = [k for k, name in names.items() if kernel in name]
    every = [m for k in chosen for m in mutants(k) if m.kind in kinds]
    if sample is not None and sample < len(every):
        every = random.Random(seed).sample(every, sample)
    total, killed, alive = Counter[str](), Counter[str](), []
    with tempfile.TemporaryDirectory() as folder:
        for mutant in every:
            total[mutant.kind] += 1
            if trial.kills(mutant, Path(folder)):
                killed[mutant.kind] += 1
            else:
                alive.append(mutant)
    for kind in KINDS:
        if total[kind]:
            print(f"{kind:<8} {killed[kind]} of {total[kind]} killed")
    for m in alive:
        print(f"alive: {names[m.kernel]}, line {m.line}: {m.before} -> {m.after or 'nothing'}")
    return [m for m in alive if m.kind in MUST_DIE]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--op", default="ntxent")
    parser.add_argument("--kernel", default="", help="part of the kernel's name")
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--sample", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    kinds, dtypes = given.kinds.split(","), given.dtypes.split(",")
    return int(bool(run(given.op, given.kernel, kinds, given.sample, given.seed, dtypes)))


if __name__ == "__main__":
    raise SystemExit(main())
