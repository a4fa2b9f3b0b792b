"""The command line: exit codes, what is left on disk, what is said about wrong options."""

import json
import re
import subprocess
import sys

import pytest
from matplotlib.figure import Figure

import sdeadapt
from sdeadapt.__main__ import main
from sdeadapt.methods import METHODS
from sdeadapt.problems import PROBLEMS

SMALL = ["--problem", "one-dimensional", "--steps", "2", "--multipliers", "1", "2", "4", "--paths", "512"]

USER_CODE = """
import dataclasses
import torch
from sdeadapt.methods import RMSprop, SGD
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.base import Oracle
from sdeadapt.problems import Problem, Suggestion, quadratic

def weak_noise(method, oracle):
    sde = method.sde(oracle)
    def at(t, x):
        drift, diffuse = sde.at(t, x)
        return drift, lambda dw: diffuse(0.5 * dw)
    return dataclasses.replace(sde, at=at)

def mine(size: float = 4.0):
    return Problem("mine", Quadratic([[1.0]], [[1.0]], size), (1.5,), 0.125)

def broken():
    raise RuntimeError("the user's own")

class Late(Quadratic):
    def sample(self, local, draw):
        raise ValueError("in the middle of a run")

def late():
    return Problem("late", Late([[1.0]], [[1.0]], 4.0), (1.5,), 0.125)

def not_a_problem():
    return 3

def shapes():
    return Problem("shapes", quadratic().oracle, (1.0,), 0.125)

def nowhere():
    return Problem("nowhere", quadratic().oracle, (1.0, float("nan")), 0.125)

def indefinite():
    return Problem("indefinite", Quadratic([[1.0]], [[-1.0]], 4.0), (1.5,), 0.125)

def skew():
    return Problem("skew", Quadratic([[1.0, 0.5], [0.0, 1.0]], [1.0, 1.0], 4.0), (1.5, 1.0), 0.125)

def warm():
    suggestion = Suggestion({"lr": 0.25}, initial={"u": (1.0, 1.0)})
    return Problem("warm", quadratic().oracle, (1.0, 1.0), 1.0, suggested={"adam": suggestion})

class Walled(Quadratic):  # a path beyond 6 is lost
    def sample(self, local, draw):
        return super().sample(local, draw) / (local.theta.abs() < 6)

def walled():
    return Problem("walled", Walled([[1.0]], [[1.0]], 12.0), (1.0,), 0.5, suggested={"sgd": Suggestion({"lr": 0.0625})})

class Sampler(Oracle):
    dim, noise_dim, scale = 1, 0, 1.0
    def stream(self, generator, paths):
        raise AssertionError
    def sample(self, local, draw):
        raise AssertionError
    def to(self, device, dtype):
        return self

def sampler():
    return Problem("sampler", Sampler(), (1.0,), 0.125)

number = 3
"""


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def _blank_figures(monkeypatch):
    """Leave figures blank, they are tested elsewhere: drawing one takes longer than a small study."""
    monkeypatch.setattr("sdeadapt.report.figures.weak_error_figure", lambda report: Figure((1, 1)))


@pytest.fixture
def verify(out, capsys):
    """Return a function that runs `sdeadapt verify` on a small study and returns (exit code, stdout, stderr)."""

    def run(*args, small=SMALL):
        code = main(["verify", *small, "--workers", "1", "--out", str(out), *args])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def user_code(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "user_code", raising=False)
    (tmp_path / "user_code.py").write_text(USER_CODE)
    monkeypatch.chdir(tmp_path)


def test_confirmed_is_0_and_leaves_a_run_directory(verify, out):
    code, said, _ = verify()
    assert code == 0
    assert said.rstrip().endswith(f"{out}\nCONFIRMED")
    assert {f.name for f in out.iterdir()} == {
        "manifest.json", "config.json", "result.json", "result.npz", "figure.png", "summary.txt"
    }  # fmt: skip
    report = sdeadapt.load(out)
    assert (out / "summary.txt").read_text() == report.summary() + "\n"
    assert report.summary() in said
    assert (out / "figure.png").read_bytes()[:4] == b"\x89PNG"


def test_refuted_is_1(verify, user_code):
    code, said, _ = verify("--sde", "user_code:weak_noise", "--test-functions", "theta_0_squared", "--paths", "4096")
    assert code == 1
    assert said.endswith("REFUTED\n")
    assert "has the SDE weak_noise weak order 1?" in said


def test_inconclusive_is_3(verify):
    code, said, _ = verify("--test-functions", "theta_0")
    assert code == 3
    assert said.endswith("INCONCLUSIVE\n")


def test_quiet_says_the_verdict_alone(verify, out):
    _, said, heard = verify("--quiet")
    assert said == f"{out}\nCONFIRMED\n"
    assert heard == ""


def test_the_problem_suggests_and_the_user_decides(verify, out):
    verify(
        "--method", "ADAM", "--set", "lr=0.125", "beta-1=.96", "--steps", "10", "--problem-set", "scale=8", "--quiet"
    )
    config = sdeadapt.load(out).config
    assert config["method"]["class"] == "Adam"
    assert (config["method"]["lr"], config["method"]["beta1"], config["method"]["beta2"]) == (0.125, 0.96, 0.9375)
    assert config["oracle"]["scale"] == 8


def test_own_problem_and_method(verify, out, user_code):
    small = ["--problem", "user_code:mine", "--method", "user_code:RMSprop", *SMALL[2:]]
    code, _, heard = verify("--set", "lr=.25", "eps=.4", "beta=.9375", "--problem-set", "size=2", small=small)
    assert code in (0, 3), heard
    assert sdeadapt.load(out).config["oracle"]["scale"] == 2


USAGE = [
    (["--problem", "quadratc"], r"`problem` must be one of .*got 'quadratc'\. Did you mean 'quadratic'\?"),
    (["--method", "rmsprp"], r"`method` must be one of .*; got 'rmsprp'\. Did you mean 'rmsprop'\?"),
    (["--test-functions", "thet_0"], r"A test function must be one of .*got 'thet_0'\. Did you mean 'theta_0'\?"),
    (["--test-functions", "theta_7"], r"`theta_7` needs a coordinate below 1"),
    (["--set", "lr=-1"], r"`lr` must be finite and positive; got -1"),
    (["--set", "lr=fast"], r"`lr` must be of type float; got 'fast'"),
    (["--set", "lr"], r"`set` must be of the form name=value; got 'lr'"),
    (["--set", "beta=1.2"], r"`beta` must lie in \(0, 1\); got 1\.2"),
    (["--set", "bta=.9"], r"`option of RMSprop` must be one of .*Did you mean 'beta'\?"),
    (["--problem-set", "noise=cauchy"], r"`noise` must be one of"),
    (["--problem-set", "colour=red"], r"`option of one_dimensional` must be one of"),
    (["--multipliers", "0", "1", "2"], r"`multipliers` must be a whole number >= 1; got 0"),
    (["--multipliers", "1", "2"], r"at least three increasing"),
    (["--steps", "0"], r"`steps` must be a whole number >= 1; got 0"),
    (["--horizon", ".125"], r"Exactly one of `horizon` .* and `steps`"),
    (["--start", ".03"], r"`start` must be a whole number of base steps of 0.0625"),
    (["--times", ".3"], r"`times` must"),
    (["--substeps", "1"], r"`substeps` must be even"),
    (["--refine", "svga"], r"`refine` must be one of .*Did you mean 'svag'\?"),
    (["--solver", "euler"], r"`solver` must be one of"),
    (["--estimator", "paired"], r"`estimator` must be one of"),
    (["--confidence", "95"], r"`confidence` must lie in \(0, 1\); got 95"),
    (["--atol", "-1"], r"`atol` must be finite and not negative"),
    (["--order", "0"], r"`order` must be a whole number >= 1"),
    (["--order", "3"], r"no SDE of order 3"),
    (["--seconds", "3"], r"at most one of paths, precision and seconds"),
    (["--paths", "1"], r"`paths` must be a whole number >= 2"),
    (["--seed", "-1"], r"`rng` must be a whole number >= 0"),
    (["--device", "abacus"], r"`device` must be one that torch can use; got 'abacus'"),
    (["--dtype", "int8"], r"`dtype` must be one of 'float64', 'float32'"),
    (["--workers", "0"], r"`workers` must be a whole number >= 1"),
    (["--sde", "own"], r"`sde` must be one of 'package.module:name'"),
    (["--problem", "no_such_module:f"], r"No module named 'no_such_module'"),
    (["--problem", "math:f"], r"`problem` must be a name or package.module:name; got 'math:f'"),
    (["--problem", "math:pi"], r"`problem` must name a class or a function; got 'math:pi', a float"),
    (["--config", "/no/such/run"], r"`--config` must be a run directory or a JSON file"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "message"), USAGE, ids=[" ".join(args) for args, _ in USAGE])
def test_wrong_options_are_2_with_one_clear_line(verify, out, args, message):
    code, said, heard = verify(*args)
    assert code == 2
    assert said == ""
    (line,) = heard.splitlines()
    assert line.startswith("sdeadapt: ")
    assert re.search(message, line), line
    assert not out.exists()
    assert not any(out.parent.glob(".*"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shapes", r"`theta0` must have shape \(2,\) or \(rows, 2\); got \(1, 1\)"),
        ("nowhere", r"`theta0` must be finite"),
        ("indefinite", r"`covariance` must be positive semi-definite; got an eigenvalue of -1"),
        ("skew", r"`hessian` must be symmetric"),
        ("sampler", r"Sampler does not declare"),
        ("not_a_problem", r"`problem` must return a Problem; 'user_code:not_a_problem' returned a int"),
        ("number", r"`problem` must name a class or a function"),
        ("absent", r"has no attribute 'absent'"),
    ],
)
def test_wrong_problems_of_the_user_are_2(verify, out, user_code, name, message):
    method = ["--method", "rmsprop", "--set", "lr=.25", "beta=.9375", "eps=.4"]
    code, said, heard = verify(*method, small=["--problem", f"user_code:{name}", *SMALL[2:]])
    assert (code, said) == (2, "")
    assert re.search(message, heard), heard
    assert not out.exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--problem", "user_code:warm"], r"With bias correction m = u = 0 at t = 0; got `initial` u != 0"),
        (["--problem", "user_code:mine"], r"`--method` must be given, as the problem mine suggests none"),
        (["--problem", "user_code:mine", "--method", "sgd"], r"SGD needs `lr`"),
        (["--problem", "user_code:mine", "--method", "user_code:Quadratic"], r"Quadratic needs `hessian`"),
        (["--problem", "digits", "--problem-set", "sampling=epoch"], r"SVAG and `verify` refuse sampling='epoch'"),
        (["--problem", "digits", "--problem-set", "sampling=batch", "batch_size=357"], r"below the 357 examples"),
    ],
)
def test_wrong_combinations_are_2(verify, out, user_code, args, message):
    code, said, heard = verify(small=args)
    assert (code, said) == (2, "")
    assert re.search(message, heard), heard
    assert not out.exists()


@pytest.mark.parametrize("args", [["--no-such-option"], ["--multipliers", "1.5", "2", "4"], ["--paths", "many"]])
def test_options_that_do_not_parse_are_2(verify, out, args):
    code, said, heard = verify(*args)
    assert (code, said) == (2, "")
    assert args[0] in heard
    assert not out.exists()


@pytest.mark.parametrize("args", [[], ["verfy"]])
def test_a_command_is_needed(args, capsys):
    assert main(args) == 2
    assert "verify" in capsys.readouterr().err


def test_the_output_directory_is_checked_first(tmp_path, verify, out, user_code):
    out.mkdir()
    (out / "precious").write_text("kept")
    code, _, heard = verify("--problem", "user_code:broken")
    assert code == 2
    assert "The output directory must be new or empty" in heard
    assert [f.name for f in out.iterdir()] == ["precious"]
    (tmp_path / "file").write_text("kept")
    code, _, heard = verify("--out", str(tmp_path / "file" / "run"))
    assert code == 2
    assert "The output directory must be in a writable place" in heard


def test_any_other_failure_is_4_with_its_traceback(verify, out, user_code, monkeypatch):
    method = ["--method", "sgd", "--set", "lr=.0625"]
    code, _, heard = verify(*method, small=["--problem", "user_code:broken"])
    assert code == 4
    assert "RuntimeError: the user's own" in heard
    code, _, heard = verify(*method, small=["--problem", "user_code:late", *SMALL[2:]])
    assert code == 4  # a ValueError, but none of a check
    assert "ValueError: in the middle of a run" in heard
    assert not out.exists()
    monkeypatch.setattr("sdeadapt.cli.run", lambda args: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["verify"]) == 130


def test_divergence_of_every_path_is_3_and_said(verify, out):
    small = ["--problem", "multiplicative", "--method", "sgd", "--multipliers", "1", "2", "4", "--paths", "64"]
    code, _, heard = verify(small=[*small, "--set", "lr=1e60", "--steps", "8"])
    assert code == 3
    (line,) = heard.splitlines()
    assert re.search(r"no finite estimates: the first path diverged at iteration 1\. Use a smaller lr", line)
    assert not out.exists()


def test_divergence_of_some_paths_is_reported_and_3(verify, out, user_code):
    small = ["--problem", "user_code:walled", "--multipliers", "1", "2", "4", "--paths", "512"]
    code, said, _ = verify(small=small)
    found = sdeadapt.load(out).diagnostics
    assert code == 3
    assert 0 < found["diverged"] < 512
    assert re.search(r"WARNING: \d+ paths diverged \([\d.]+ % of all\), the first at iteration \d", said)
    assert "Paths diverged, so the estimates are of the survivors" in said


def test_config_repeats_a_run_bit_by_bit(verify, tmp_path, out, capsys):
    assert verify("--precision", "0.5", "--seed", "3", small=SMALL[:-2])[0] in (0, 3)
    again = tmp_path / "again"
    code = main(["verify", "--config", str(out), "--out", str(again), "--workers", "1", "--quiet"])
    first, second = sdeadapt.load(out), sdeadapt.load(again)
    assert code in (0, 3)
    for field in ("error", "sem", "bias", "paths", "chain", "sde"):
        assert getattr(first, field).tobytes() == getattr(second, field).tobytes()
    assert first.config["seed"] == second.config["seed"] == 3
    assert json.loads((again / "config.json").read_text()) == json.loads((out / "config.json").read_text())


def test_options_come_before_the_config(verify, tmp_path, out):
    verify("--set", "lr=.125", "--steps", "2")
    again = tmp_path / "again"
    assert main(["verify", "--config", str(out), "--out", str(again), "--workers", "1", "--set", "eps=.1"]) in (0, 3)
    method = sdeadapt.load(again).config["method"]
    assert (method["lr"], method["eps"]) == (0.125, 0.1)
    assert sdeadapt.load(again).config["paths"] == sdeadapt.load(out).config["paths"]


def test_a_config_file_may_be_written_by_hand(tmp_path, out, capsys):
    file = tmp_path / "study.json"
    options = {"problem": "one_dimensional", "steps": 2, "multipliers": [1, 2, 4], "paths": 512, "set": {"eps": 0.2}}
    file.write_text(json.dumps(options))
    assert main(["verify", "--config", str(file), "--out", str(out), "--workers", "1", "--quiet"]) in (0, 3)
    assert sdeadapt.load(out).config["method"]["eps"] == 0.2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be a run directory or a JSON file"),
        ("[1]", "must hold command-line options"),
        ('{"oracle": {}}', "A report saved from Python holds none"),
        ('{"command": "compare"}', "must be of the same command; got one of 'compare' for 'verify'"),
        ('{"multiplier": [1]}', "--multiplier"),
        ('{"steps": "many"}', "--steps"),
    ],
)
def test_a_wrong_config_is_2(tmp_path, out, capsys, content, message):
    (tmp_path / "study.json").write_text(content)
    assert main(["verify", "--config", str(tmp_path / "study.json"), "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_dry_run_prints_the_plan_and_writes_nothing(verify, out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said, _ = verify("--dry-run", "--paths", "600", "--estimator", "independent")
    assert code == 0
    assert said.count("600 + 600") == 3
    assert "path-steps" in said
    assert "MiB" in said
    code, said, _ = verify("--dry-run", "--estimator", "quadrature")
    assert code == 0
    assert "quadrature estimator: exact up to a bound, no random number" in said
    assert list(tmp_path.iterdir()) == []


def test_without_out_every_run_has_a_new_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda *_: "now")
    for _ in range(2):
        main(["verify", *SMALL, "--workers", "1", "--quiet"])
    assert sorted(f.name for f in (tmp_path / "runs").iterdir()) == ["verify-now", "verify-now-2"]


def test_compare(out, capsys):
    small = [*SMALL[:4], "--paths", "128", "--times", "2", "--workers", "1"]
    code = main(["compare", *small, "--out", str(out)])
    report = sdeadapt.load(out)
    assert code == {"CONFIRMED": 0, "REFUTED": 1}.get(report.verdict.value, 3)
    assert capsys.readouterr().out.endswith(f"{report.verdict}\n")
    assert (out / "figure.png").stat().st_size > 1000
    again = out.with_name("again")
    assert main(["compare", "--config", str(out), "--out", str(again), "--quiet", "--workers", "1"]) == code
    assert sdeadapt.load(again).mean.tobytes() == report.mean.tobytes()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--quantiles", ".5", ".1"], "`quantiles` must be increasing"),
        (["--closeness", ".5"], "`closeness` must be"),
        (["--paths", "8"], "`paths` must be a whole number >= 64"),
        (["--multipliers", "2", "4"], "`multipliers` must increase from 1"),
    ],
)
def test_wrong_options_of_compare_are_2(out, capsys, args, message):
    assert main(["compare", *SMALL[:4], "--workers", "1", "--out", str(out), *args]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_as_a_program_it_gives_the_same_bits(verify, out, tmp_path, workers):
    verify()
    other = tmp_path / "other"
    command = [sys.executable, "-m", "sdeadapt", "verify", *SMALL, "--workers", workers, "--out", str(other), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{other}\nCONFIRMED\n", "")
    assert sdeadapt.load(other).error.tobytes() == sdeadapt.load(out).error.tobytes()


def test_help_does_not_wait_for_torch_and_names_everything():
    code = (
        "import sys; from sdeadapt.__main__ import main; status = main(['verify', '--help']); "
        "print('torch' in sys.modules, 'numpy' in sys.modules, status)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "False False 0"
    words = set(re.findall(r"[\w.:]+", said))
    assert {*METHODS, *PROBLEMS} <= words
