"""The benchmark harness: who takes part, what is timed, what is derived, what is written."""

import importlib
import io
import itertools
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import sslkern
from sslkern import reference
from sslkern.bench import CASES, device, harness, info_nce, memory, ntxent, peers, supcon
from sslkern.bench.contenders import Contender, Outcome, Size, UnavailableError, loss_contender
from sslkern.bench.harness import Plan, run_size
from sslkern.bench.results import Results, Row, compare, to_json, write_json
from sslkern.cli import bench
from sslkern.cli.main import main

CASE = CASES["ntxent"]
SIZE = Size(32, 8)
ENVIRONMENT = {
    "cpu": "a CPU",
    "cores": 2,
    "threads": 1,
    "instruction_set": "avx2",
    "torch_instruction_set": "AVX2",
    "torch": "2",
    "sslkern": "0",
}


class Silent:
    def phase(self, text, steps=1):
        pass

    def advance(self):
        pass


def toy(name, step, **options):
    return Contender(name, "a toy", lambda problem: step, **options)


def measure(*contenders, repeats=3, size=SIZE, dtype=torch.float32, measure_memory=False):
    plan = Plan((size,), dtype, contenders, 1, repeats, measure_memory)
    return {row.contender: row for row in run_size(CASE, plan, size, Silent())}


def contender(name, case=CASE):
    return next(c for c in case.contenders if c.name == name)


@pytest.fixture
def short_queue(monkeypatch):
    monkeypatch.setattr(info_nce, "QUEUE", 40)


@pytest.fixture
def few_classes(monkeypatch):
    monkeypatch.setattr(supcon, "CLASSES", 5)


# --- harness --------------------------------------------------------------------------------------


def test_every_round_runs_each_contender_once_and_starts_with_another():
    calls = []
    a, b, c = (toy(name, lambda name=name: calls.append(name)) for name in "abc")
    rows = measure(a, b, c, repeats=3)
    first_calls_and_warm_up_round = 6
    assert "".join(calls[first_calls_and_warm_up_round:]) == "abc" + "bca" + "cab"
    assert [len(row.times_s) for row in rows.values()] == [3, 3, 3]


def test_failing_contender_is_reported_and_others_go_on():
    def fail():
        raise MemoryError("no room\nfor details")

    rows = measure(toy("bad", fail), toy("good", lambda: None))
    assert (rows["bad"].status, rows["bad"].reason) == ("failed", "MemoryError: no room")
    assert rows["bad"].times_s == []
    assert len(rows["good"].times_s) == 3


def test_contender_that_fails_in_a_later_round_is_taken_out():
    calls = []

    def fail_the_fourth_time():
        calls.append(None)
        if len(calls) == 4:
            raise RuntimeError("worn out")

    rows = measure(toy("bad", fail_the_fourth_time), toy("good", lambda: None), repeats=5)
    assert rows["bad"].reason == "RuntimeError: worn out"
    assert len(calls) == 4
    assert len(rows["good"].times_s) == 5


def test_unavailable_contender_is_skipped_with_its_reason():
    def load(size):
        raise UnavailableError("not installed: pip install it")

    rows = measure(loss_contender("absent", "", load))
    assert (rows["absent"].status, rows["absent"].reason) == (
        "skipped",
        "not installed: pip install it",
    )


def test_interrupt_is_not_taken_for_a_failing_contender():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(toy("a", interrupt))


def test_contender_that_would_not_fit_into_memory_is_not_started(monkeypatch):
    monkeypatch.setattr(harness, "free_memory", lambda device: 1000)
    started = []
    rows = measure(toy("big", lambda: started.append(None), matrices=1.0))
    assert rows["big"].status == "skipped"
    assert "0.0 GiB are available" in rows["big"].reason
    assert started == []


def test_agreement_is_measured_against_the_float64_reference():
    def twice(z_a, z_b):
        return 2 * reference.ntxent_loss(z_a, z_b, ntxent.TEMPERATURE)

    rows = measure(contender("eager"), loss_contender("twice", "", lambda size: twice))
    assert rows["eager"].loss_error < 1e-6
    assert rows["eager"].grad_error < 1e-5
    assert rows["twice"].loss_error == pytest.approx(1, rel=1e-5)
    assert rows["twice"].grad_error == pytest.approx(1, rel=1e-5)


def test_rounds_follow_the_budget():
    assert harness.affordable_rounds(1.0, 10.5) == 10
    assert harness.affordable_rounds(1e9, 10.5) == harness.MIN_ROUNDS
    assert harness.affordable_rounds(0.0, 10.5) == harness.MAX_ROUNDS
    assert harness.affordable_rounds(1.0, 10.5, most=7) == 7


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_every_dtype_runs_and_gradients_keep_it(dtype):
    problem = CASE.problem(SIZE, dtype)
    for name in ("sslkern", "eager"):
        outcome = contender(name).prepare(problem)()
        assert isinstance(outcome, Outcome)
        assert [g.dtype for g in outcome.grads] == [dtype, dtype]


def test_gradients_do_not_accumulate_over_steps():
    step = contender("eager").prepare(CASE.problem(SIZE, torch.float32))
    first, second = step(), step()
    assert torch.equal(first.grads[0], second.grads[0])


@pytest.mark.parametrize("name", ["sslkern", "sslkern out=", "swav"])
def test_sinkhorn_has_a_result_and_no_gradient(name):
    case = CASES["sinkhorn"]
    outcome = contender(name, case).prepare(case.problem(SIZE, torch.float32))()
    assert outcome.grads == ()
    assert outcome.loss.shape == (SIZE.rows, SIZE.dim)
    assert case.passes == "forward"


@pytest.mark.usefixtures("short_queue")
@pytest.mark.parametrize("name", ["sslkern", "eager"])
def test_only_the_queries_of_info_nce_get_a_gradient(name):
    case = CASES["info_nce"]
    problem = case.problem(SIZE, torch.float32)
    outcome = contender(name, case).prepare(problem)()
    assert [g.shape for g in outcome.grads] == [(32, 8)]
    assert outcome.grads[0].any()
    assert not any(x.requires_grad for x in problem.inputs)


@pytest.mark.usefixtures("short_queue", "few_classes")
@pytest.mark.parametrize("loss", sorted(CASES))
def test_every_case_agrees_with_its_reference(loss):
    case = CASES[loss]
    floors = (c for c in case.contenders if c.is_floor)
    chosen = (contender("sslkern", case), contender("eager", case), *floors)
    rows = run_size(case, Plan((SIZE,), torch.float32, chosen, 1, 3, False), SIZE, Silent())
    assert [row.status for row in rows] == ["ok"] * len(chosen)
    for row in rows[:2]:
        assert row.loss_error < 1e-6
        if case.gradients == 0:
            assert row.grad_error is None
        else:
            assert row.grad_error < 1e-5


# --- contenders -----------------------------------------------------------------------------------


def test_inputs_are_the_same_every_time():
    first, second = (ntxent.make_inputs(SIZE, torch.float32) for _ in range(2))
    for x, y in zip(first, second, strict=True):
        assert x.shape == (16, 8)
        assert torch.equal(x, y)


@pytest.mark.parametrize("loss", [name for name in CASES if name not in {"ntxent", "dcl"}])
@pytest.mark.parametrize("size", [Size(0, 8), Size(4, 0)])
def test_empty_size_is_rejected(size, loss):
    with pytest.raises(ValueError, match=f"size {size}"):
        CASES[loss].check_size(size)


@pytest.mark.parametrize("size", [Size(3, 8), Size(0, 8), Size(4, 0)])
def test_size_without_two_views_is_rejected(size):
    with pytest.raises(ValueError, match=f"size {size}"):
        ntxent.check_size(size)


def test_linear_cross_entropy_keeps_the_diagonal():
    """The reason for which it does not take part."""
    z_a, z_b = ntxent.make_inputs(SIZE, torch.float64)
    z = F.normalize(torch.cat([z_a, z_b]))
    partner = torch.arange(32).roll(16)
    theirs = F.linear_cross_entropy(z / 0.5, z, partner)
    torch.testing.assert_close(theirs, F.cross_entropy(z @ z.T / 0.5, partner))
    assert theirs - reference.ntxent_loss(z_a, z_b, 0.5) > 0.05
    with pytest.raises(UnavailableError, match="left out of its own denominator"):
        contender("linear_cross_entropy").prepare(CASE.problem(SIZE, torch.float32))


@pytest.mark.parametrize("loss", sorted(CASES))
def test_every_case_begins_with_the_kernel_its_reference_and_the_compiled(loss):
    assert [c.name for c in CASES[loss].contenders[:3]] == ["sslkern", "eager", "compile"]


def test_compiled_reference_gives_the_same():
    problem = CASE.problem(SIZE, torch.float64)
    eager, compiled = (contender(name).prepare(problem)() for name in ("eager", "compile"))
    torch.testing.assert_close(compiled.loss, eager.loss)
    torch.testing.assert_close(compiled.grads, eager.grads)


def test_kernel_that_is_not_built_is_unavailable(monkeypatch):
    monkeypatch.delattr(sslkern, "ntxent_loss")
    with pytest.raises(UnavailableError, match="not built: see python -m sslkern info"):
        contender("sslkern").prepare(CASE.problem(SIZE, torch.float32))


def test_cubic_peer_is_skipped_above_its_limit():
    problem = CASE.problem(Size(ntxent.PML_MAX_ROWS + 2, 2), torch.float32)
    with pytest.raises(UnavailableError, match=r"N\^3 .* run up to N = 512"):
        contender("pytorch-metric-learning").prepare(problem)


@pytest.mark.usefixtures("short_queue", "few_classes")
@pytest.mark.parametrize(
    ("loss", "name"),
    [
        ("ntxent", "lightly"),
        ("ntxent", "pytorch-metric-learning"),
        ("info_nce", "info-nce-pytorch"),
        ("clip", "open_clip"),
        ("siglip", "open_clip"),
        ("supcon", "pytorch-metric-learning"),
        ("dcl", "lightly"),
        ("cross_correlation", "lightly"),
        ("covariance", "lightly"),
        ("in_batch", "sentence-transformers"),
        ("in_batch", "sentence-transformers cached"),
        ("in_batch", "info-nce-pytorch"),
        ("in_batch", "pytorch-metric-learning"),
        ("sinkhorn", "lightly"),
        ("sinkhorn", "POT"),
        ("swav", "lightly"),
        ("tico", "lightly"),
        ("mmcr", "lightly"),
        ("wmse", "lightly"),
        ("frossl", "lightly"),
        ("linear_cross_entropy", "torch chunked"),
        ("linear_cross_entropy", "torch dense"),
    ],
)
def test_installed_peer_computes_the_same_loss(loss, name):
    case = CASES[loss]
    problem = case.problem(SIZE, torch.float64)
    try:
        theirs = contender(name, case).prepare(problem)()
    except UnavailableError as error:
        pytest.skip(str(error))
    ours = contender("eager", case).prepare(problem)()
    torch.testing.assert_close(theirs.loss, ours.loss)
    torch.testing.assert_close(theirs.grads, ours.grads)


def test_koleo_of_lightly_is_the_same_but_for_its_epsilon():
    case = CASES["koleo"]
    problem = case.problem(SIZE, torch.float64)
    try:
        theirs = contender("lightly", case).prepare(problem)()
    except UnavailableError as error:
        pytest.skip(str(error))
    ours = contender("eager", case).prepare(problem)()
    torch.testing.assert_close(theirs.loss, ours.loss, rtol=1e-7, atol=0)
    torch.testing.assert_close(theirs.grads, ours.grads, rtol=1e-5, atol=1e-8)


def test_absent_peer_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(peers, "installed_version", lambda peer: None)
    with pytest.raises(UnavailableError, match="not installed: pip install --no-deps lightly"):
        peers.import_peer("lightly", "lightly.loss")


def test_peer_that_does_not_import_says_why(monkeypatch):
    monkeypatch.setattr(peers, "installed_version", lambda peer: "1.6.0")
    monkeypatch.setitem(sys.modules, "broken_peer", None)
    with pytest.raises(UnavailableError, match="does not import: ModuleNotFoundError"):
        peers.import_peer("lightly", "broken_peer")


def test_file_of_a_peer_is_loaded_without_its_package(monkeypatch):
    monkeypatch.setitem(peers.PEERS, "pytest", peers.Peer("pytest", "pip install pytest"))
    loaded = peers.load_peer_file("pytest", "_pytest/_version.py")
    assert loaded.version == pytest.__version__
    with pytest.raises(UnavailableError, match="does not import: FileNotFoundError"):
        peers.load_peer_file("pytest", "_pytest/absent.py")
    monkeypatch.setattr(peers, "installed_version", lambda peer: None)
    with pytest.raises(UnavailableError, match="not installed: pip install --no-deps open_clip"):
        peers.load_peer_file("open_clip_torch", "open_clip/loss.py")


def test_torchvision_stub_is_there_only_meanwhile(monkeypatch):
    monkeypatch.setattr(peers, "_imports", lambda module: False)
    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    finders = list(sys.meta_path)
    with peers._torchvision():
        module = importlib.import_module("torchvision.models.anything")
        assert isinstance(module.VisionTransformer, type)
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("torchvision_like_other_package")
    assert sys.meta_path == finders
    assert not [n for n in sys.modules if n.split(".")[0] == "torchvision"]


# --- memory ---------------------------------------------------------------------------------------


def peak_of(name, rows):
    peak = memory.measure(memory.Job("ntxent", name, rows, 64, "float32", 1))
    if peak is None:
        pytest.skip("this system does not tell the peak of resident memory")
    return peak


def test_memory_of_eager_is_a_few_matrices_and_of_sslkern_less_than_one():
    rows = 1024
    matrix = 4 * rows * rows
    assert 2 * matrix < peak_of("eager", rows) < 6 * matrix
    assert peak_of("sslkern", rows) < matrix


def test_memory_measurement_that_fails_raises_the_reason():
    with pytest.raises(RuntimeError, match=r"memory measurement: .*one bias per class"):
        memory.measure(memory.Job("ntxent", "linear_cross_entropy", 32, 8, "float32", 1))


def test_failed_memory_measurement_costs_only_the_number(monkeypatch):
    def fail(job):
        raise RuntimeError("memory measurement: killed")

    monkeypatch.setattr(memory, "measure", fail)
    row = measure(contender("eager"), measure_memory=True)["eager"]
    assert (row.status, row.peak_bytes) == ("ok", None)
    assert row.reason == "memory not measured: memory measurement: killed"
    assert len(row.times_s) == 3


# --- results --------------------------------------------------------------------------------------


def row(name, times, size=SIZE, **options):
    return Row("ntxent", size, "float32", name, times_s=times, **options)


def test_ratios_are_medians_of_the_ratios_within_rounds():
    ours = row("sslkern", [1.0, 2.0, 4.0])  # a drift that hits both alike
    peer = row("eager", [3.0, 6.0, 12.0])
    floor = row("two sgemm", [0.5, 1.0, 2.0], is_floor=True)
    compare([ours, peer, floor], flops=10**9, peak_gflops=2.0)
    assert (ours.speedup, peer.speedup, floor.speedup) == (1.0, 3.0, None)
    assert (ours.over_floor, peer.over_floor) == (2.0, 6.0)
    assert ours.peak_fraction == pytest.approx(0.25)  # 1 GFLOP in 2 s of 2 GFLOP/s


def test_nothing_is_derived_without_our_kernel_or_a_floor():
    peer = row("eager", [3.0, 6.0])
    compare([peer, row("lightly", [])], flops=1, peak_gflops=None)
    assert (peer.speedup, peer.over_floor, peer.peak_fraction) == (None, None, None)


def test_json_holds_environment_and_raw_times(tmp_path):
    skipped = row("lightly", [])
    skipped.drop("skipped", "not\n installed")
    path = tmp_path / "r.json"
    write_json(Results(ENVIRONMENT, 100.0, [row("eager", [0.25, 0.5, 0.75]), skipped]), path)
    document = json.loads(path.read_text())
    assert document["environment"] == ENVIRONMENT
    ran, absent = document["rows"]
    assert ran["times_s"] == [0.25, 0.5, 0.75]
    assert (ran["lower_quartile_s"], ran["median_s"], ran["upper_quartile_s"]) == (
        0.375,
        0.5,
        0.625,
    )
    assert (absent["status"], absent["reason"], absent["median_s"]) == (
        "skipped",
        "not installed",
        None,
    )
    assert path.read_text() == to_json(
        Results(ENVIRONMENT, 100.0, [row("eager", [0.25, 0.5, 0.75]), skipped])
    )


# --- table and plot -------------------------------------------------------------------------------


def results_of(sizes, peak_bytes=10 * 2**20):
    rows = []
    for size in sizes:
        group = [
            row("sslkern", [0.0101] * 3, size, peak_bytes=peak_bytes, loss_error=1e-7),
            row("eager", [1.25] * 3, size, peak_bytes=peak_bytes and 3 * 2**30),
            row("two sgemm", [0.00998] * 3, size, is_floor=True),
            row("lightly", [], size),
        ]
        group[-1].drop("skipped", "not installed: [pip] install lightly")
        compare(group, 10**9, 1000.0)
        rows += group
    return Results(ENVIRONMENT, 1000.0, rows)


def test_table_shows_numbers_ratios_and_reasons():
    from rich.console import Console

    from sslkern.bench.table import print_results

    console = Console(width=140, record=True, file=io.StringIO())
    print_results(results_of([Size(2048, 128), Size(8192, 128)]), "A title", console)
    text = console.export_text()
    for fragment in ("A title", "8192x128", "10.1 ms", "1.25 s", "123.76x", "10 MiB", "3.00 GiB"):
        assert fragment in text
    assert "lightly at 2048x128, 8192x128: skipped: not installed: [pip] install" in text
    assert "a CPU, threads: 1, cores: 2, avx2" in text


@pytest.mark.parametrize("number", ["two", "three", "four"])
def test_table_names_the_floor(number):
    from rich.console import Console

    from sslkern.bench.table import print_results

    rows = [row("sslkern", [0.5]), row(f"{number} sgemm", [0.25], is_floor=True)]
    console = Console(width=140, record=True, file=io.StringIO())
    print_results(Results(ENVIRONMENT, None, rows), "A title", console)
    heading = console.export_text().split("\u2500")[0]
    assert f" {number} " in heading


def test_narrow_table_loses_columns_and_no_digits():
    from rich.console import Console

    from sslkern.bench.table import print_results

    console = Console(width=80, record=True, file=io.StringIO())
    print_results(results_of([Size(8192, 128)]), "A title", console)
    text = console.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "\u2026" not in text  # the sign of something cut off
    assert "quartiles" not in text
    for fragment in ("8192x128", "10.1 ms", "123.76x", "3.00 GiB"):
        assert fragment in text


def test_time_format_keeps_three_digits():
    from sslkern.bench.table import format_seconds

    times = (0.001234, 0.01234, 0.1234, 0.9996, 12.34)
    assert [format_seconds(t) for t in times] == [
        "1.23 ms",
        "12.3 ms",
        "123 ms",
        "1.00 s",
        "12.3 s",
    ]


def texts_of(figure):
    return {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def test_mixed_sizes_are_drawn_as_labelled_bars():
    from sslkern.bench.plot import draw

    figure = draw(results_of([Size(2048, 128), Size(4096, 512)]), "A title")
    assert len(figure.axes) == 4  # time and memory of two sizes
    labels = texts_of(figure)
    assert {"A title", "10.1 ms", "1.25 s  (123.8x)", "10 MiB", "3.00 GiB", "two sgemm"} <= labels
    assert "N = 4096, D = 512: time" in labels


def test_sizes_of_one_dim_are_drawn_as_lines_over_n(tmp_path):
    from sslkern.bench.plot import draw, save_plot

    results = results_of([Size(n, 128) for n in (512, 1024, 2048)], peak_bytes=None)
    figure = draw(results, "A title")
    (axes,) = figure.axes  # no memory, no panel for it
    assert [list(line.get_xdata()) for line in axes.lines] == [[512.0, 1024.0, 2048.0]] * 3
    assert {"sslkern", "eager", "two sgemm"} <= texts_of(figure)
    save_plot(results, "A title", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1


def test_labels_at_line_ends_do_not_overlap():
    from sslkern.bench.plot import MIN_LABEL_DISTANCE, _spread

    heights = _spread([0.50, 0.50, 0.51, 0.9])
    gaps = [b - a for a, b in itertools.pairwise(heights)]
    assert min(gaps) > 0.99 * MIN_LABEL_DISTANCE
    assert heights[-1] == 0.9


# ---- devices


class FakeEvent:
    """Stands for torch.cuda.Event: its time is what the fake clock shows when it is recorded."""

    clock = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.time = 0.0

    def record(self) -> None:
        self.time = FakeEvent.clock

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "FakeEvent") -> float:
        return end.time - self.time


def test_cuda_times_are_those_between_events(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        FakeEvent.clock += 250.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert device.seconds_of(work, "cuda") == pytest.approx(0.25)


def test_inputs_are_made_on_the_device() -> None:
    problem = CASE.problem(SIZE, torch.float32, "meta")
    assert all(x.is_meta for x in problem.inputs)


def test_cuda_is_refused_where_there_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["bench", "--device", "cuda"]) == 2
    assert "expected a CUDA device" in capsys.readouterr().err


def test_device_is_a_gpu_where_there_is_one_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plans: list[Plan] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(bench, "name_of", str)
    monkeypatch.setattr(bench, "_measure", lambda case, plan, results: plans.append(plan))
    monkeypatch.setattr(bench, "_publish", lambda *args: None)
    assert main(["bench"]) == 0
    assert main(["bench", "--device", "cpu"]) == 0
    assert [plan.device for plan in plans] == ["cuda", "cpu"]
