"""What only a device can show: graphs, streams, a second device, numbers that are not on it.

No emulation has any of these. Every form of an operator with kernels makes a step, forward and
backward, and what it gives must be bitwise what the same step gives in the plain way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
from kernel_forms import MORE_FORMS
from test_schedules import COMPOSED
from torch import Tensor

import sslkern
from sslkern.cli import verify
from sslkern.cli.arguments import DTYPES
from sslkern.verification.forms import FORMS, Form
from sslkern.verification.terms import Values

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)

BACKENDS = ("cuda",)

SIZE = (133, 19)
CYCLES = 200_000_000  # about a tenth of a second, in which a step can be launched many times

Step = Callable[[Values], Values]

KERNEL_FORMS = [form for form in (*FORMS, *MORE_FORMS) if form.function not in COMPOSED]
CASES = [
    pytest.param(form, dtype, id=f"{form.name}-{name}")
    for form, (name, dtype) in product(KERNEL_FORMS, DTYPES.items())
]
steps = pytest.mark.parametrize(("form", "dtype"), CASES)


@pytest.fixture(autouse=True)
def _as_users_have_it(backend: str) -> Iterator[None]:
    """No default device, which would hide that a tensor is made on the wrong one; nothing waits."""
    default = torch.get_default_device()
    torch.set_default_device(None)
    with sslkern.check_values(False):
        yield
    torch.set_default_device(default)


# ---- a step, which runs on any device


def step_of(form: Form, dtype: torch.dtype) -> tuple[verify.Setting, Step]:
    """Inputs -> the result and all gradients, by name."""
    setting = next(verify.settings(form, [dtype]))
    fused = getattr(sslkern, form.function)
    return setting, lambda inputs: verify._evaluate(fused, inputs, setting)


def number_of(form: Form) -> str | None:
    """The input that the operator takes as a Python number, if there is one."""
    return form.parameter.name if form.parameter and form.parameter.is_number else None


def inputs_of(setting: verify.Setting, device: str) -> Values:
    """Those of `verify`; what becomes a Python number stays where reading it waits for nothing."""
    inputs = verify._inputs(setting, SIZE, torch.device(device))
    number = number_of(setting.form)
    return {name: x.cpu() if name == number else x for name, x in inputs.items()}


def others_of(form: Form, inputs: Values) -> Values:
    """Rows that meet other rows, and other numbers; a Python number is part of the program."""
    number, found = number_of(form), {}
    for k, (name, x) in enumerate(inputs.items(), 1):
        other = x.roll(k, 0) if x.dim() else 1.5 * x
        found[name] = x if name == number else other
    return found


def copy_into(static: Values, inputs: Values) -> None:
    for name, x in static.items():
        x.copy_(inputs[name])


def zeros_of(form: Form, inputs: Values) -> Values:
    """Memory for the inputs, without what they hold."""
    number = number_of(form)
    return {name: x if name == number else torch.zeros_like(x) for name, x in inputs.items()}


def assert_equal(found: Values, expected: Values, what: str) -> None:
    """Bitwise, but for which NaN it is, of which there should be none."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.isfinite().all(), f"{name}, plain"
        assert torch.equal(found[name], value), f"{name}, {what}"


def numbers_of(form: Form, inputs: Values) -> list[str]:
    """Inputs of one element that may be tensors, such as a temperature."""
    return [name for name, x in inputs.items() if x.dim() == 0 and name != number_of(form)]


def with_numbers_on_the_cpu(
    step: Step, inputs: Values, numbers: list[str], shape: tuple[int, ...]
) -> Values:
    """The step where they are tensors on the CPU, and whether their gradients are there as well."""
    moved = {name: inputs[name].cpu().reshape(shape) for name in numbers}
    found = step(inputs | moved)
    for name in numbers:
        assert found[name].device.type == "cpu", name
        assert found[name].shape == shape, name
    return found


def with_python_numbers(form: Form, inputs: Values, setting: verify.Setting) -> Values:
    """The step where they are Python numbers, which have no gradient."""
    numbers = {name: inputs[name].item() for name in numbers_of(form, inputs)}
    fused = getattr(sslkern, form.function)
    rest = {name: x for name, x in inputs.items() if name not in numbers}

    def with_numbers(**options: object) -> Tensor:
        result: Tensor = fused(**options, **numbers)
        return result

    return verify._evaluate(with_numbers, rest, setting)


# ---- graphs


def captured(step: Step, static: Values) -> tuple[torch.cuda.CUDAGraph, Values]:
    """A graph of the step, and where its replays leave what they give."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step(static)
    return graph, found


@steps
def test_a_replayed_graph_gives_what_the_step_gives(form: Form, dtype: torch.dtype) -> None:
    """Also of inputs that were not there when it was captured."""
    setting, step = step_of(form, dtype)
    inputs = inputs_of(setting, "cuda")
    static = {name: x.clone() for name, x in inputs.items()}
    graph, found = captured(step, static)
    for given in (others_of(form, inputs), inputs):
        expected = step(given)
        copy_into(static, given)
        graph.replay()
        assert_equal(found, expected, "replayed")


# ---- streams


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@steps
def test_a_step_on_a_stream_of_its_own_waits_for_nothing(form: Form, dtype: torch.dtype) -> None:
    """Its inputs come late in that stream: work on any other would be done before they are there.

    And the step returns before they are: it would not if anything waited, whether torch knows of
    it or not. The first one on that stream may wait: kernels are loaded, memory is allocated.
    """
    setting, step = step_of(form, dtype)
    inputs = inputs_of(setting, "cuda")
    expected, static = step(inputs), zeros_of(form, inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(inputs)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            torch.cuda._sleep(CYCLES)
            copy_into(static, inputs)
            found = step(static)
            still_asleep = not stream.query()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.cuda.current_stream().wait_stream(stream)
    assert_equal(found, expected, "on a stream of its own")
    assert still_asleep, "the step returned only when all work was done"


# ---- a second device


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one CUDA device only")
@steps
def test_a_step_on_the_second_device_while_the_first_is_current(
    form: Form, dtype: torch.dtype
) -> None:
    setting, step = step_of(form, dtype)
    inputs = inputs_of(setting, "cuda:1")
    with torch.cuda.device(1):
        expected = step(inputs)
    assert torch.cuda.current_device() == 0
    found = step(inputs)
    assert torch.cuda.current_device() == 0
    assert {x.device for x in found.values()} == {torch.device("cuda:1")}
    assert_equal(found, expected, "while another device is current")


# ---- numbers


def takes_numbers(form: Form) -> bool:
    setting, _ = step_of(form, torch.float64)
    return bool(numbers_of(form, inputs_of(setting, "cpu")))


steps_with_numbers = pytest.mark.parametrize(
    ("form", "dtype"), [case for case in CASES if takes_numbers(case.values[0])]
)


@pytest.mark.parametrize("shape", [(), (1,)], ids=["0-d", "1-d"])
@steps_with_numbers
def test_numbers_on_the_cpu_count_as_on_the_device(
    form: Form, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """At temperatures whose inverse is exact: it does not matter how a device divides by them."""
    setting, step = step_of(form, dtype)
    inputs = inputs_of(setting, "cuda")
    numbers = numbers_of(form, inputs)
    expected = step(inputs)
    found = with_numbers_on_the_cpu(step, inputs, numbers, shape)
    moved = {name: x.to(expected[name].device) for name, x in found.items()}
    moved |= {name: moved[name].reshape(()) for name in numbers}
    assert_equal(moved, expected, "numbers on the CPU")


@steps_with_numbers
def test_python_numbers_count_as_tensors_on_the_device(form: Form, dtype: torch.dtype) -> None:
    setting, step = step_of(form, dtype)
    inputs = inputs_of(setting, "cuda")
    found = with_python_numbers(form, inputs, setting)
    expected = {name: x for name, x in step(inputs).items() if name in found}
    assert found.keys() == expected.keys()
    assert len(found) > 1
    assert_equal(found, expected, "Python numbers")
