"""The parser of ``python -m sslkern`` and what all subcommands share: errors and exit codes.

Exit codes: 0 done, 1 done with a bad result (a miss, a failed kernel), 2 wrong use,
130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from sslkern.cli.errors import UserError

PROGRAM = "sslkern"
COMMANDS = ("info", "bench", "scaling", "verify", "train", "model")


class _Parser(argparse.ArgumentParser):
    """Reports a bad argument in one line; the usage is one ``--help`` away."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser with all subcommands."""
    parser = _Parser(
        prog=PROGRAM, description="Fused kernels for self-supervised losses in PyTorch."
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name in COMMANDS:
        _add_command(subparsers, name)
    return parser


def _add_command(subparsers: argparse._SubParsersAction[Any], name: str) -> None:
    """Add one subcommand; one that does not import says so when it is called.

    Without the compiled module some do not, and ``info`` has to run all the same.
    """
    try:
        command = importlib.import_module(f"sslkern.cli.{name}")
    except ImportError as error:
        reason = f"does not import: {error}"

        def fail(args: argparse.Namespace) -> NoReturn:
            raise UserError(f"{reason} See python -m sslkern info")

        # A prefix that nobody types: options too are swallowed on the way to the reason.
        parser = subparsers.add_parser(
            name, help="does not import here", prefix_chars="\0", add_help=False
        )
        parser.add_argument("rest", nargs="*")
        parser.set_defaults(run=fail)
    else:
        command.add_parser(subparsers)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code.

    Args:
        argv: Arguments after the program's name; those of the process by default.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    args = build_parser().parse_args(words)
    args.argv = words  # for the stamp on results
    name = f"{PROGRAM} {args.command}"
    try:
        code = int(args.run(args))
        sys.stdout.flush()  # a pipe that was closed early shows here and not at exit
    except UserError as error:
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted; what was not finished is lost", file=sys.stderr)
        return 130
    except BrokenPipeError:  # for example `| head`: nobody reads the rest
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code
