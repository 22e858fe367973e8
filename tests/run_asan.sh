#!/usr/bin/env bash
# The operators' tests on the CUDA kernels' source under AddressSanitizer and UBSan, whose run-time
# libraries the process has to be started with: those of the compiler, and before any C++ exception.
#
#   tests/run_asan.sh tests/test_ntxent.py -k refused
set -euo pipefail
cd "$(dirname "$0")/.."
cxx=${CXX:-c++}
preload="$($cxx -print-file-name=libasan.so) $($cxx -print-file-name=libubsan.so) $($cxx -print-file-name=libstdc++.so)"
LD_PRELOAD="$preload" ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0 \
  "${PYTHON:-.venv/bin/python}" -m pytest -p no:faulthandler --backends asan "$@"
