"""``python -m sslkern verify``: every op against its float64 reference, by one rule."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

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

The tables show, over all sizes, the largest part of this allowance that was used; above 100% is a
miss. The exit code is 1 if anything missed."""

SIZES = ((2, 3), (6, 8), (62, 33), (130, 127), (258, 130))
"""N x D, around and away from the edges of vector registers and tiles."""
TEMPERATURES = (0.5, 0.1, 0.005)
LARGEST_LOGIT = 200
"""Of unit rows at the lowest temperature; the rounding of larger ones grows with them."""

Values = dict[str, Tensor]
LossFn = Callable[..., Tensor]


@dataclass(frozen=True)
class Form:
    """A way to call an op, with a table of its own."""

    op: str
    about: str
    rows: Callable[[int], dict[str, int]]
    """N -> the matrices it takes and the rows of each."""
    options: dict[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As in the title of the table."""
        return f"{self.op}, {self.about}" if self.about else self.op

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is compared."""
        return ("loss", *(f"grad {name}" for name in (*self.rows(2), "temperature")))


FORMS = (
    Form("ntxent", "", lambda n: {"z_a": n // 2, "z_b": n // 2}),
    Form("info_nce", "", lambda n: {"query": n, "key": n}),
    Form("info_nce", "symmetric", lambda n: {"query": n, "key": n}, {"symmetric": True}),
    Form("info_nce", "negatives", lambda n: {"query": n, "key": n, "negatives": 2 * n + 1}),
)


@dataclass(frozen=True)
class Setting:
    """One line of a table."""

    form: Form
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
    lines = []
    for form in FORMS:
        table = [(s, list(_checks(s, device))) for s in _settings(form, dtypes)]
        _print_table(form, table, device)
        lines += table
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


def _settings(form: Form, dtypes: list[torch.dtype]) -> Iterator[Setting]:
    for dtype, normalize, temperature in itertools.product(dtypes, (True, False), TEMPERATURES):
        yield Setting(form, dtype, normalize, temperature)


def _checks(setting: Setting, device: torch.device) -> Iterator[Check]:
    """Compare all quantities at all sizes."""
    op = setting.form.op
    fused, definition = _fused(op), getattr(reference, f"{op}_loss")
    for size in SIZES:
        inputs = _inputs(setting, size, device)
        exact = {name: x.double() for name, x in inputs.items()}
        expected = _evaluate(definition, exact, setting)
        eager = _evaluate(definition, inputs, setting)
        actual = _evaluate(fused, inputs, setting)
        for name in setting.form.quantities:
            scale = _scale(name, expected, exact, setting)
            agreement = compare(actual[name], eager[name], expected[name], scale=scale)
            yield Check(name, size, agreement)


def _inputs(setting: Setting, size: tuple[int, int], device: torch.device) -> Values:
    """Matrices with rows of norm about 1, and the temperature in the dtype of the arithmetic."""
    n, dim = size
    generator = torch.Generator().manual_seed(1000 * n + dim)
    inputs = {}
    for name, rows in setting.form.rows(n).items():
        z = torch.randn(rows, dim, generator=generator, dtype=torch.float64) / dim**0.5
        inputs[name] = z.to(device=device, dtype=setting.dtype)
    working = torch.promote_types(setting.dtype, torch.float32)
    return inputs | {"temperature": torch.tensor(setting.temperature, dtype=working, device=device)}


def _evaluate(loss_fn: LossFn, inputs: Values, setting: Setting) -> Values:
    """Loss of every row, and the gradients of their mean."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    options = {"normalize": setting.normalize, "reduction": "none", **setting.form.options}
    loss = loss_fn(**leaves, **options)
    grads = torch.autograd.grad(loss.mean(), list(leaves.values()))
    return dict(zip(setting.form.quantities, (loss.detach(), *grads), strict=True))


def _scale(name: str, expected: Values, inputs: Values, setting: Setting) -> float:
    """What errors are relative to: the size of the terms where these nearly cancel.

    Where the positive dominates, a loss and its gradients are small differences of terms that are
    each rounded at their own size: 1 for the loss; |z| / temperature for a row's gradient, from its
    own loss and from those of others, each a mean over N; max |z|^2 / temperature^2 for d loss /
    d temperature = (E[s] - s_positive) / temperature. The rule's floor is for logits up to 200.
    """
    matrices = [x for x in inputs.values() if x.dim() == 2]
    longest = 1.0 if setting.normalize else max(float(x.norm(dim=1).max()) for x in matrices)
    if name == "loss":
        terms = 1.0
    elif name == "grad temperature":
        terms = longest**2 / setting.temperature**2
    else:
        terms = 2 * longest / setting.temperature / len(expected["loss"])
    beyond = max(1.0, longest**2 / setting.temperature / LARGEST_LOGIT)
    return max(beyond * terms, float(expected[name].abs().max()))


def _print_table(
    form: Form, lines: list[tuple[Setting, list[Check]]], device: torch.device
) -> None:
    from rich import box
    from rich.table import Table

    from sslkern.bench.table import stdout_console

    table = Table(
        title=f"{form.name}: part of the allowed error that was used, {device}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("dtype", "normalize", "temperature"):
        table.add_column(heading)
    for heading in (*form.quantities, "result"):
        table.add_column(heading, justify="right")
    for setting, checks in lines:
        table.add_row(*_cells(setting, checks))
    stdout_console().print(table)


def _cells(setting: Setting, checks: list[Check]) -> list[str]:
    used = {
        name: max(c.agreement.allowance_used for c in checks if c.quantity == name)
        for name in setting.form.quantities
    }
    passed = all(check.agreement.passed for check in checks)
    return [
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
        f"miss: {setting.form.name} {check.quantity}, {dtype}, {rows}x{dim},"
        f" normalize={setting.normalize}, temperature {setting.temperature}: {check.agreement}"
    )
