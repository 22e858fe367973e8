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
from sslkern.bench.device import default_device
from sslkern.cli import arguments
from sslkern.cli.errors import UserError
from sslkern.verification.forms import FORMS, Form
from sslkern.verification.terms import Case, Values

DESCRIPTION = """\
Compares every op with its float64 reference: values and all gradients, at ragged sizes; where the
op has them, with and without normalisation, at temperatures down to 0.005 (logit scales up to 200).
The rule is the same everywhere:

  error of the kernel <= 2 * error of eager PyTorch in the same dtype + floor of the dtype

The tables show, over all sizes, the largest part of this allowance that was used; above 100% is a
miss. The exit code is 1 if anything missed."""

SIZES = ((2, 3), (6, 8), (62, 33), (130, 127), (258, 130))
"""N x D, around and away from the edges of vector registers and tiles."""
TEMPERATURES = (0.5, 0.1, 0.005)

LossFn = Callable[..., Tensor]


@dataclass(frozen=True)
class Setting:
    """One line of a table."""

    form: Form
    dtype: torch.dtype
    normalize: bool | None
    """None where the form has no such option; likewise the temperature."""
    temperature: float | None

    @property
    def arguments(self) -> dict[str, object]:
        """Its columns, by the names that the operator uses."""
        named: dict[str, object] = {}
        if self.normalize is not None:
            named["normalize"] = self.normalize
        if self.form.parameter is not None:
            named[self.form.parameter.name] = self.value
        return named

    @property
    def value(self) -> float:
        """Of the form's parameter; 1 if it has none."""
        if self.form.parameter is None or self.temperature is None:
            return 1.0
        return self.form.parameter.of(self.temperature)


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
    parser.add_argument(
        "--device",
        default=default_device(),
        help="default: cuda where there is a device, else cpu; here %(default)s",
    )
    parser.add_argument(
        "--dtype",
        type=arguments.dtype,
        metavar="DTYPE",
        help=f"only one of {', '.join(arguments.DTYPES)}; default: all",
    )
    parser.add_argument(
        "--op",
        choices=list(dict.fromkeys(form.op for form in FORMS)),
        metavar="OP",
        help="only one of %(choices)s; default: all",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare, print, and return 1 on a miss."""
    arguments.require("rich", "bench")
    device = _device(args.device)
    dtypes = [args.dtype] if args.dtype is not None else list(arguments.DTYPES.values())
    lines = []
    for form in FORMS:
        if args.op not in (None, form.op):
            continue
        table = [(s, list(checks(s, device))) for s in settings(form, dtypes)]
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


def _fused(form: Form) -> LossFn:
    try:
        fused: LossFn = getattr(sslkern, form.function)
    except (AttributeError, ImportError) as error:
        raise UserError(f"no {form.op} to verify ({error}); see python -m sslkern info") from None
    return fused


def settings(form: Form, dtypes: list[torch.dtype]) -> Iterator[Setting]:
    """Every line of a form's table."""
    normalize = (True, False) if form.normalizes else (None,)
    temperatures = TEMPERATURES if form.parameter is not None else (None,)
    for values in itertools.product(dtypes, normalize, temperatures):
        yield Setting(form, *values)


def checks(setting: Setting, device: torch.device) -> Iterator[Check]:
    """Compare all quantities at all sizes."""
    form = setting.form
    fused, definition = _fused(form), getattr(reference, form.function)
    for size in SIZES:
        inputs = _inputs(setting, size, device)
        exact = {name: _cast(x, torch.float64) for name, x in inputs.items()}
        expected = _evaluate(definition, exact, setting)
        eager = _evaluate(definition, inputs, setting)
        actual = _evaluate(fused, inputs, setting)
        terms = form.terms(_case(setting, exact, expected[form.result]))
        for name, reference_value in expected.items():
            half = actual[name].dtype.itemsize == 2
            # The floor of a half gradient is that of storing it, whatever the logits.
            term = terms.sizes[name] * (1.0 if half else terms.beyond)
            scale = max(term, float(reference_value.abs().max()))
            agreement = compare(actual[name], eager[name], reference_value, scale=scale)
            yield Check(_title(form, name), size, agreement)


def _inputs(setting: Setting, size: tuple[int, int], device: torch.device) -> Values:
    """Those of the form in the dtype, and numbers in that of the arithmetic."""
    n, dim = size
    generator = torch.Generator().manual_seed(1000 * n + dim)
    inputs = setting.form.inputs(n, dim, generator)
    if setting.form.parameter is not None:
        value = torch.tensor(setting.value, dtype=torch.float64)
        inputs[setting.form.parameter.name] = value
    return {name: _cast(x, setting.dtype).to(device) for name, x in inputs.items()}


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    if not x.is_floating_point():
        return x
    return x.to(dtype if x.dim() else torch.promote_types(dtype, torch.float32))


def _leaves(form: Form, inputs: Values) -> list[str]:
    """What has a gradient."""
    constants = form.constants
    if form.parameter is not None and form.parameter.is_number:
        constants += (form.parameter.name,)
    return [k for k, x in inputs.items() if x.is_floating_point() and k not in constants]


def _evaluate(loss_fn: LossFn, inputs: Values, setting: Setting) -> Values:
    """The result, and the gradients of its mean if it has any, by name."""
    form = setting.form
    names = _leaves(form, inputs)
    leaves = {name: inputs[name].detach().requires_grad_() for name in names}
    options = dict(form.options)
    if setting.normalize is not None:
        options["normalize"] = setting.normalize
    tensors = inputs | leaves
    if form.parameter is not None and form.parameter.is_number:
        options[form.parameter.name] = tensors.pop(form.parameter.name).item()
    result = loss_fn(**form.arguments(tensors), **options)
    grads = torch.autograd.grad(result.mean(), list(leaves.values())) if leaves else ()
    return {form.result: result.detach()} | dict(zip(names, grads, strict=True))


def _case(setting: Setting, exact: Values, result: Tensor) -> Case:
    parameter = setting.form.parameter
    first = next(iter(exact.values()))
    return Case(
        exact,
        losses=len(result) if result.dim() else len(first),
        normalize=bool(setting.normalize),
        parameter=parameter.name if parameter is not None else "",
        value=setting.value,
        factor=1 / setting.temperature if setting.temperature is not None else 1.0,
    )


def _title(form: Form, name: str) -> str:
    return name if name == form.result else f"grad {name}"


def _print_table(
    form: Form, lines: list[tuple[Setting, list[Check]]], device: torch.device
) -> None:
    from rich import box
    from rich.table import Table

    from sslkern.bench.table import stdout_console

    table = Table(box=box.SIMPLE_HEAD)
    setting, checks = lines[0]
    for heading in ("dtype", *setting.arguments):
        table.add_column(heading)
    for heading in (*_quantities(checks), "result"):
        table.add_column(heading, justify="right")
    for setting, checks in lines:
        table.add_row(*_cells(setting, checks))
    console = stdout_console()
    title = f"{form.name}: part of the allowed error that was used, {device}"
    console.print(title, style="italic", highlight=False)
    console.print(table)


def _quantities(checks: list[Check]) -> list[str]:
    """What was compared, in order."""
    return list(dict.fromkeys(check.quantity for check in checks))


def _cells(setting: Setting, checks: list[Check]) -> list[str]:
    used = (
        max(c.agreement.allowance_used for c in checks if c.quantity == name)
        for name in _quantities(checks)
    )
    passed = all(check.agreement.passed for check in checks)
    return [
        str(setting.dtype).removeprefix("torch."),
        *(_word(value) for value in setting.arguments.values()),
        *(f"{part:.0%}" for part in used),
        "[green]pass[/green]" if passed else "[bold red]MISS[/bold red]",
    ]


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}"


def _describe_miss(setting: Setting, check: Check) -> str:
    dtype = str(setting.dtype).removeprefix("torch.")
    rows, dim = check.size
    arguments = "".join(f", {name}={value}" for name, value in setting.arguments.items())
    return (
        f"miss: {setting.form.name} {check.quantity}, {dtype}, {rows}x{dim}{arguments}:"
        f" {check.agreement}"
    )
