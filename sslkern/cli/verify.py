"""``python -m sslkern verify``: every op against its float64 reference, by one rule."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import sslkern
from sslkern import reference
from sslkern.accuracy import Agreement, compare
from sslkern.cli import arguments
from sslkern.cli.errors import UserError

DESCRIPTION = """\
Compares every op with its float64 reference: values and all gradients, at ragged sizes, with and
without normalisation, at temperatures down to 0.005. The rule is the same everywhere:

  error of the kernel <= 2 * error of eager PyTorch in the same dtype + floor of the dtype

The table shows, over all sizes, the largest part of this allowance that was used; above 100% is a
miss. The exit code is 1 if anything missed."""

SIZES = ((2, 3), (6, 8), (62, 33), (130, 127), (258, 130))
"""N x D, around and away from the edges of vector registers and tiles."""
TEMPERATURES = (0.5, 0.1, 0.005)
QUANTITIES = ("loss", "grad z_a", "grad z_b", "grad temperature")

Values = dict[str, Tensor]
LossFn = Callable[..., Tensor]


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    op: str
    dtype: torch.dtype
    normalize: bool
    temperature: float


@dataclass(frozen=True)
class Check:
    """One comparison."""

    quantity: str
    size: tuple[int, int]
    agreement: Agreement


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``verify`` to the command line."""
    parser = subparsers.add_parser(
        "verify",
        help="compare every op with its float64 reference",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: %(default)s")
    parser.add_argument(
        "--dtype",
        type=arguments.dtype,
        metavar="DTYPE",
        help=f"only one of {', '.join(arguments.DTYPES)}; default: all",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare, print, and return 1 on a miss."""
    arguments.require("rich", "bench")
    device = _device(args.device)
    dtypes = [args.dtype] if args.dtype is not None else list(arguments.DTYPES.values())
    lines = [(s, list(_checks(s, device))) for s in _settings(dtypes)]
    _print_table(lines, device)
    misses = [(s, c) for s, checks in lines for c in checks if not c.agreement.passed]
    for setting, check in misses:
        print(_describe_miss(setting, check))
    total = sum(len(checks) for _, checks in lines)
    print(f"{total - len(misses)} of {total} comparisons passed")
    return int(bool(misses))


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that CUDA was compiled in
        raise UserError(f"argument --device: cannot use {text!r}: {error}") from None
    return device


def _fused(op: str) -> LossFn:
    try:
        fused: LossFn = getattr(sslkern, f"{op}_loss")
    except (AttributeError, ImportError) as error:
        raise UserError(f"no {op} to verify ({error}); see python -m sslkern info") from None
    return fused


def _settings(dtypes: list[torch.dtype]) -> Iterator[Setting]:
    for dtype, normalize, temperature in itertools.product(dtypes, (True, False), TEMPERATURES):
        yield Setting("ntxent", dtype, normalize, temperature)


def _checks(setting: Setting, device: torch.device) -> Iterator[Check]:
    """Compare all quantities at all sizes."""
    fused, definition = _fused(setting.op), reference.ntxent_loss
    for size in SIZES:
        z_a, z_b, temperature = _inputs(setting, size, device)
        exact = z_a.double(), z_b.double(), temperature.double()
        expected = _evaluate(definition, *exact, setting.normalize)
        eager = _evaluate(definition, z_a, z_b, temperature, setting.normalize)
        actual = _evaluate(fused, z_a, z_b, temperature, setting.normalize)
        for name in QUANTITIES:
            scale = _scale(name, expected[name], *exact, setting.normalize)
            agreement = compare(actual[name], eager[name], expected[name], scale=scale)
            yield Check(name, size, agreement)


def _inputs(
    setting: Setting, size: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Two views with rows of norm about 1, and the temperature in the dtype of the arithmetic."""
    rows, dim = size
    generator = torch.Generator().manual_seed(1000 * rows + dim)
    z = torch.randn(2, rows // 2, dim, generator=generator, dtype=torch.float64) / dim**0.5
    z_a, z_b = z.to(device=device, dtype=setting.dtype)
    working = torch.promote_types(setting.dtype, torch.float32)
    return z_a, z_b, torch.tensor(setting.temperature, dtype=working, device=device)


def _evaluate(
    loss_fn: LossFn, z_a: Tensor, z_b: Tensor, temperature: Tensor, normalize: bool
) -> Values:
    """Loss of every row, and the gradients of their mean."""
    leaves = [x.detach().requires_grad_() for x in (z_a, z_b, temperature)]
    a, b, t = leaves
    loss = loss_fn(a, b, t, normalize=normalize, reduction="none")
    grads = torch.autograd.grad(loss.mean(), leaves)
    return dict(zip(QUANTITIES, (loss.detach(), *grads), strict=True))


def _scale(
    name: str, expected: Tensor, z_a: Tensor, z_b: Tensor, temperature: Tensor, normalize: bool
) -> float | None:
    """Size of the terms of a gradient where they cancel; None to measure against the gradient.

    d loss / d temperature = (s_positive - E[s]) / temperature: the two nearly cancel, but each is
    rounded at its own size, up to max |z|^2 / temperature. Two rows have one possible partner, so
    that all gradients are differences of equal terms.
    """
    longest = 1.0 if normalize else float(torch.cat([z_a, z_b]).norm(dim=1).max())
    if name == "grad temperature":
        return longest**2 / temperature.item() ** 2
    if name != "loss" and not expected.any():
        return longest / temperature.item()
    return None


def _print_table(lines: list[tuple[Setting, list[Check]]], device: torch.device) -> None:
    from rich import box
    from rich.table import Table

    from sslkern.bench.table import stdout_console

    table = Table(
        title=f"part of the allowed error that was used, {device}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("op", "dtype", "normalize", "temperature"):
        table.add_column(heading)
    for heading in (*QUANTITIES, "result"):
        table.add_column(heading, justify="right")
    for setting, checks in lines:
        table.add_row(*_cells(setting, checks))
    stdout_console().print(table)


def _cells(setting: Setting, checks: list[Check]) -> list[str]:
    used = {
        name: max(c.agreement.allowance_used for c in checks if c.quantity == name)
        for name in QUANTITIES
    }
    passed = all(check.agreement.passed for check in checks)
    return [
        setting.op,
        str(setting.dtype).removeprefix("torch."),
        "yes" if setting.normalize else "no",
        str(setting.temperature),
        *(f"{part:.0%}" for part in used.values()),
        "[green]pass[/green]" if passed else "[bold red]MISS[/bold red]",
    ]


def _describe_miss(setting: Setting, check: Check) -> str:
    dtype = str(setting.dtype).removeprefix("torch.")
    rows, dim = check.size
    return (
        f"miss: {setting.op} {check.quantity}, {dtype}, {rows}x{dim},"
        f" normalize={setting.normalize}, temperature {setting.temperature}: {check.agreement}"
    )
