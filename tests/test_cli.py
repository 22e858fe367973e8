"""The command line: results, exit codes, and one clear line where the user has to act."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import sslkern
from sslkern import reference
from sslkern.bench import harness
from sslkern.cli import bench, verify
from sslkern.cli.main import main
from sslkern.ops.supcon import VARIANTS
from sslkern.verification.forms import FORMS

ROOT = Path(__file__).parents[1]


def call(*argv):
    """Exit code of the program, whether argparse or a subcommand decides it."""
    try:
        return main(argv)
    except SystemExit as leave:
        return leave.code


@pytest.fixture
def measures_nothing(monkeypatch):
    """Fails the test if any measuring starts."""

    def start(*args):
        raise AssertionError("work started before the arguments were checked")

    monkeypatch.setattr(harness, "run_size", start)


@pytest.fixture
def small_checks(monkeypatch):
    monkeypatch.setattr(verify, "SIZES", ((2, 3), (62, 33)))
    monkeypatch.setattr(verify, "TEMPERATURES", (0.1,))


# --- wrong use ------------------------------------------------------------------------------------

WRONG_USE = [
    (["bench", "--loss", "triplet"], "invalid choice: 'triplet'"),
    (["bench", "--sizes", "12x"], "expected sizes such as 2048x128 (rows x features), got '12x'"),
    (["bench", "--sizes", ","], "expected names separated by commas, got none"),
    (["bench", "--sizes", "64x8,63x8"], "expected N in size 63x8 to be even and at least 2"),
    (["bench", "--sizes", "0x8"], "expected N in size 0x8 to be even and at least 2"),
    (["bench", "--sizes", "64x0"], "expected D in size 64x0 to be at least 1"),
    (["bench", "--threads", "-1"], "expected an integer of at least 1, got '-1'"),
    (["bench", "--repeats", "many"], "expected an integer of at least 1, got 'many'"),
    (
        ["bench", "--dtype", "int8"],
        "expected one of float64, float32, bfloat16, float16, got 'int8'",
    ),
    (["bench", "--contenders", "eager,egger"], "got 'egger'"),
    (["bench", "--plot", "picture.doc"], "expected a .png, .svg or .pdf file, got picture.doc"),
    (["verify", "--dtype", "half"], "got 'half'"),
    (["verify", "--op", "triplet"], "invalid choice: 'triplet'"),
    (["verify", "--device", "abacus"], "argument --device: cannot use 'abacus'"),
]


@pytest.mark.parametrize(("argv", "fragment"), WRONG_USE)
@pytest.mark.usefixtures("measures_nothing")
def test_wrong_argument_gives_one_line_and_exit_code_2(
    argv, fragment, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert call(*argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"sslkern {argv[0]}: error: ")
    assert fragment in error


def test_missing_or_unknown_command_gives_exit_code_2(capsys):
    assert call() == 2
    assert call("benchmark") == 2
    assert capsys.readouterr().err.startswith("sslkern: error: ")


@pytest.mark.parametrize("option", ["--json", "--plot"])
@pytest.mark.usefixtures("measures_nothing")
def test_unwritable_output_is_found_before_the_work(option, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    path = tmp_path / "file" / "out.png"
    assert call("bench", option, str(path)) == 2
    assert f"sslkern bench: error: cannot write {path}: " in capsys.readouterr().err
    (tmp_path / "folder.png").mkdir()
    assert call("bench", option, "folder.png") == 2
    assert "cannot write folder.png: is a folder" in capsys.readouterr().err


def test_missing_extra_names_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    for command in ("bench", "verify"):
        assert call(command) == 2
        assert "pip install 'sslkern[bench]'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["info", "bench", "verify", "train"])
def test_help_describes_the_command(command, capsys):
    assert call("--help") == 0
    assert f"    {command} " in capsys.readouterr().out
    assert call(command, "--help") == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: sslkern {command}")
    assert len(text) > 300


# --- interrupts -----------------------------------------------------------------------------------


def test_interrupt_gives_one_line_and_exit_code_130(capsys, monkeypatch):
    def interrupt(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "run", interrupt)
    assert call("bench") == 130
    error = capsys.readouterr().err
    assert error == "\nsslkern bench: interrupted; what was not finished is lost\n"


def test_ctrl_c_leaves_no_file(tmp_path):
    command = [sys.executable, "-m", "sslkern", "bench", "--sizes", "1024x64", "--contenders"]
    command += ["eager", "--no-memory", "--repeats", "1000000", "--json", "r.json"]
    command += ["--plot", "p.png"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        text=True,
        stderr=subprocess.PIPE,
        # A shell's background jobs ignore interrupts, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as child:
        try:
            for line in child.stderr:
                if "rounds" in line:
                    break
            child.send_signal(signal.SIGINT)
            _, rest = child.communicate(timeout=30)
            assert child.returncode == 130
        finally:
            child.kill()
    assert rest == "\nsslkern bench: interrupted; what was not finished is lost\n"
    assert list(tmp_path.iterdir()) == []


# --- bench ----------------------------------------------------------------------------------------


def test_bench_prints_and_writes_where_it_says(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["bench", "--sizes", "64x8,32x8", "--contenders", "eager,sslkern,two sgemm"]
    argv += ["--repeats", "2", "--no-memory", "--dtype", "bfloat16"]
    assert call(*argv) == 0
    output = capsys.readouterr().out
    for fragment in ("NT-Xent, forward + backward, bfloat16", "64x8", "32x8", "two sgemm"):
        assert fragment in output
    assert "results: bench-results/ntxent-bfloat16.json" in output
    assert "plot: bench-results/ntxent-bfloat16.png" in output
    document = json.loads(Path("bench-results/ntxent-bfloat16.json").read_text())
    environment = document["environment"]
    assert environment["command"].startswith("python -m sslkern bench --sizes 64x8,32x8")
    assert {"cpu", "cores", "threads", "instruction_set", "torch", "numpy", "date"} <= set(
        environment
    )
    assert [(r["contender"], r["rows"], len(r["times_s"])) for r in document["rows"]] == [
        (name, rows, 2) for rows in (64, 32) for name in ("sslkern", "eager", "two sgemm")
    ]
    ours, eager, floor = document["rows"][:3]
    assert eager["sslkern_speedup"] > 0
    assert ours["time_over_floor"] > 0
    assert 0 < ours["fraction_of_fma_peak"] < 1
    assert ours["grad_relative_l2_error"] < 1e-2
    assert floor["loss_relative_error"] is None
    assert Path("bench-results/ntxent-bfloat16.png").stat().st_size > 1000


def test_bench_reports_a_failing_kernel_and_exits_with_1(capsys, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("kernel panic")

    monkeypatch.setattr(sslkern, "ntxent_loss", fail)
    monkeypatch.chdir(tmp_path)
    argv = ["bench", "--sizes", "32x8", "--contenders", "sslkern,eager", "--repeats", "1"]
    assert call(*argv, "--no-memory") == 1
    assert "sslkern at 32x8: failed: RuntimeError: kernel panic" in capsys.readouterr().out


def test_bench_uses_the_threads_asked_for(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    argv = ["bench", "--sizes", "32x8", "--contenders", "eager", "--repeats", "1", "--no-memory"]
    try:
        assert call(*argv, "--threads", "1") == 0
        assert "float32, 1 thread " in capsys.readouterr().out
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


# --- verify ---------------------------------------------------------------------------------------


FUNCTIONS = sorted({form.function for form in FORMS})
NOT_A_KERNEL = {
    "estimate_log_normalizer"
}  # a log-sum-exp of PyTorch; a loss that uses it has a form
WITHOUT_GRADIENT = {"sinkhorn"}  # a target


def misses_of(function, capsys):
    """What ``verify --op`` prints of a function in float32, without "miss: "."""
    assert call("verify", "--dtype", "float32", "--op", function.removesuffix("_loss")) == 1
    lines = capsys.readouterr().out.splitlines()
    return [line.removeprefix("miss: ") for line in lines if line.startswith("miss: ")]


def test_verify_has_a_form_for_every_operator():
    assert set(FUNCTIONS) == set(sslkern.ops.__all__) - NOT_A_KERNEL
    assert {form.about for form in FORMS if form.op == "supcon"} == set(VARIANTS)
    assert len({form.name for form in FORMS}) == len(FORMS)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_verify_has_a_size_of_terms_for_every_quantity(form):
    """Even where the errors happen to be small."""
    setting = next(verify.settings(form, [torch.float32]))
    inputs = verify._inputs(setting, (6, 8), torch.device("cpu"))
    results = verify._evaluate(getattr(sslkern, form.function), inputs, setting)
    exact = {name: verify._cast(x, torch.float64) for name, x in inputs.items()}
    terms = form.terms(verify._case(setting, exact, results[form.result]))
    assert set(results) <= set(terms.sizes)


@pytest.mark.usefixtures("small_checks")
def test_verify_passes_for_the_kernel_in_every_dtype(capsys):
    assert call("verify") == 0
    output = capsys.readouterr().out
    for dtype in ("float64", "float32", "bfloat16", "float16"):
        assert dtype in output
    for form in FORMS:
        assert f"{form.name}: part of the allowed error" in output
    assert re.search(r"^(\d+) of \1 comparisons passed$", output, re.MULTILINE)


@pytest.mark.usefixtures("small_checks")
def test_verify_of_one_op_compares_every_quantity(capsys):
    """2 sizes of 5 quantities, in float32, for a loss without temperature and normalisation."""
    assert call("verify", "--op", "siglip", "--dtype", "float32") == 0
    output = capsys.readouterr().out
    titles = [line for line in output.splitlines() if ": part of the allowed error" in line]
    assert [title.split(":")[0] for title in titles] == [
        "siglip",
        "siglip, mean",
        "siglip, negatives only",
    ]
    for heading in ("loss", "image_features", "text_features", "logit_scale", "logit_bias"):
        assert heading in output
    assert "normalize" not in output
    assert "30 of 30 comparisons passed" in output


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.usefixtures("small_checks")
def test_verify_misses_a_wrong_value_of_any_op(function, capsys, monkeypatch):
    definition = getattr(reference, function)
    monkeypatch.setattr(sslkern, function, lambda *a, **k: definition(*a, **k) * 1.001)
    found = {line.split(", float32")[0] for line in misses_of(function, capsys)}
    expected = {f"{form.name} {form.result}" for form in FORMS if form.function == function}
    assert expected <= found


@pytest.mark.parametrize("function", sorted(set(FUNCTIONS) - WITHOUT_GRADIENT))
@pytest.mark.usefixtures("small_checks")
def test_verify_misses_a_wrong_gradient_of_any_op(function, capsys, monkeypatch):
    """Of every input: all are a thousandth too small, and the value is right."""
    definition = getattr(reference, function)

    def damped(*args, **options):
        value = definition(*args, **options)
        return value + 0.001 * (value.detach() - value)

    monkeypatch.setattr(sslkern, function, damped)
    found = {line.split(", float32")[0] for line in misses_of(function, capsys)}
    for form in (form for form in FORMS if form.function == function):
        inputs = verify._leaves(form, form.inputs(6, 8, torch.Generator()))
        given = form.parameter is not None and not form.parameter.is_number
        parameter = [form.parameter.name] if given else []
        expected = {f"{form.name} grad {name}" for name in [*inputs, *parameter]}
        assert expected == {name for name in found if name.startswith(f"{form.name} ")}


# Option -> the forms that depend on it.
OPTIONS = [
    ("info_nce_loss", "symmetric", {"info_nce, symmetric"}),
    ("info_nce_loss", "negatives", {"info_nce, negatives", "info_nce, queue"}),
    ("siglip_loss", "negative_only", {"siglip, negatives only"}),
    ("supcon_loss", "variant", {"supcon, in", "supcon, in_sum", "supcon, pairwise"}),
    ("linear_cross_entropy", "softcap", {"linear_cross_entropy, softcap"}),
    ("soft_cross_entropy", "center", {"soft_cross_entropy, center"}),
    ("sampled_nce_loss", "log_normalizer", {"sampled_nce"}),
    ("vicreg_loss", "variant", {"vicreg, solo", "vicreg, vibcreg"}),
    ("covariance_loss", "normalize_columns", {"covariance, normalized columns"}),
    ("sinkhorn", "queue", {"sinkhorn, queue"}),
    ("sinkhorn", "prototype_marginal", {"sinkhorn, shares"}),
    ("sinkhorn", "row_weight", {"sinkhorn, shares"}),
    ("swav_loss", "queue", {"swav, queue"}),
]


@pytest.mark.usefixtures("small_checks")
def test_verify_misses_a_kernel_that_is_a_little_off(capsys, monkeypatch):
    def a_little_off(z_a, z_b, temperature, **options):
        return reference.ntxent_loss(z_a, z_b, temperature * 1.001, **options)

    monkeypatch.setattr(sslkern, "ntxent_loss", a_little_off)
    assert call("verify", "--dtype", "float32") == 1
    output = capsys.readouterr().out
    assert "MISS" in output
    assert "miss: ntxent loss, float32, 62x33, normalize=True, temperature=0.1: " in output


@pytest.mark.parametrize(("function", "option", "names"), OPTIONS)
@pytest.mark.usefixtures("small_checks")
def test_verify_misses_an_option_without_effect(function, option, names, capsys, monkeypatch):
    definition = getattr(reference, function)

    def without(*args, **options):
        ignored = options.pop(option, None)
        value = definition(*args, **options)
        has_gradient = isinstance(ignored, torch.Tensor) and ignored.requires_grad
        return value + 0 * ignored.sum() if has_gradient else value

    monkeypatch.setattr(sslkern, function, without)
    misses = misses_of(function, capsys)
    (result,) = {f" {form.result}, " for form in FORMS if form.function == function}
    assert {line.split(result)[0] for line in misses if result in line} == names


@pytest.mark.usefixtures("small_checks")
def test_verify_misses_nan(capsys, monkeypatch):
    def with_nan(*args, **options):
        loss = reference.ntxent_loss(*args, **options)
        return torch.where(torch.arange(len(loss)) == 1, torch.nan, loss)

    monkeypatch.setattr(sslkern, "ntxent_loss", with_nan)
    assert call("verify", "--dtype", "float32") == 1
    assert "nan at [1] where the reference is" in capsys.readouterr().out


# --- info -----------------------------------------------------------------------------------------


def test_info_shows_build_machine_and_packages(capsys):
    assert call("info") == 0
    output = capsys.readouterr().out
    for heading in ("extension\n", "machine\n", "packages\n"):
        assert heading in output
    for name in ("compiler", "active_instruction_set", "OMP_NUM_THREADS", "lightly"):
        assert f"  {name} " in output


def test_info_as_json_is_json(capsys):
    assert call("info", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["extension"] == sslkern.build_config()
    assert report["machine"]["torch"] == torch.__version__


def test_info_without_extension_says_why_and_what_to_do(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sslkern._build", None)
    assert call("info") == 1
    output = capsys.readouterr().out
    assert "error" in output
    assert "ModuleNotFoundError: import of sslkern._build halted" in output
    assert "pip install" in output.split("missing\n")[1]


def test_command_that_does_not_import_says_so_and_others_run(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sslkern.cli.train", None)
    for argv in (["train", "--steps", "5"], ["train", "--help"]):
        assert call(*argv) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.startswith("sslkern train: error: does not import: ")
    assert call("info") == 0


def test_info_survives_a_reader_that_leaves(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = f"'{sys.executable}' -m sslkern info | true"
    child = subprocess.run(
        ["bash", "-c", command],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert child.stderr == ""
