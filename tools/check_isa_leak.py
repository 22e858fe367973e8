"""Fails if a wide instruction set leaks into functions that other objects share.

Such a function could win at link time and crash older CPUs. Weak (inline) functions of the AVX2 and
AVX-512 builds must lie in the namespace of their build; any other one that contains vector code of
theirs would replace the baseline's twin. Usage: check_isa_leak.py BUILD_DIR
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path


def run(*command: str) -> str:
    """Output of a command."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def weak_functions(path: Path) -> set[str]:
    """Names of the weak and unique symbols of an object."""
    return set(re.findall(r"^[0-9a-f]+ [WVu] (\S+)$", run("nm", str(path)), re.MULTILINE))


def functions_with_wide_code(path: Path) -> set[str]:
    """Names of the functions that contain a VEX or EVEX instruction."""
    found, current = set(), ""
    for line in run("objdump", "-d", "--no-show-raw-insn", str(path)).splitlines():
        if header := re.match(r"^[0-9a-f]+ <(.*)>:$", line):
            current = header[1]
        elif re.search(r"\tv[a-z]|%[yz]mm", line):
            found.add(current)
    return found


def leaks(path: Path, isa: str) -> list[str]:
    """Shared functions of the object that a baseline file could end up calling."""
    shared = weak_functions(path) & functions_with_wide_code(path)
    names = run("c++filt", *sorted(shared)).splitlines() if shared else []
    return [name for name in names if f"sslkern::cpu::{isa}::" not in name]


def main() -> int:
    """Check every object of the wide instruction sets under the build folder."""
    build = Path(sys.argv[1])
    objects = [
        (path, isa)
        for isa in ("avx2", "avx512")
        for path in build.glob(f"**/sslkern_{isa}.dir/**/*.o")
    ]
    if not objects:
        print(f"check_isa_leak: no AVX objects under {build}")
        return 1
    bad = [(path.name, isa, name) for path, isa in objects for name in leaks(path, isa)]
    for path_name, isa, name in bad:
        print(f"check_isa_leak: {isa} build of {path_name} defines the shared function {name}")
    print(f"check_isa_leak: {len(objects)} objects, {len(bad)} leaks")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
