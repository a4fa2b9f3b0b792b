"""`sdeadapt updates`: exit codes, run directory, wrong options."""

import json

import pytest

import sdeadapt
from sdeadapt.__main__ import main

SMALL = ["updates", "--networks", "mlp", "--looks", "1", "2", "--copies", "8", "--batch-size", "4", "--workers", "1"]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


def test_a_run_directory_and_the_verdict(out, capsys, tmp_path):
    code = main([*SMALL, "--out", str(out)])
    said = capsys.readouterr().out
    report = sdeadapt.load(out)
    assert {"CONFIRMED": 0, "REFUTED": 1, "INCONCLUSIVE": 3}[report.verdict.value] == code
    assert said.splitlines()[-2:] == [str(out), report.verdict.value]
    assert {path.name for path in out.iterdir()} >= {"figure.png", "summary.txt", "manifest.json", "result.npz"}
    assert report.summary() in said
    assert json.loads((out / "config.json").read_text())["command"] == "updates"
    again = tmp_path / "again"
    assert main(["updates", "--config", str(out), "--out", str(again), "--quiet", "--workers", "1"]) == code
    assert sdeadapt.load(again).share.tobytes() == report.share.tobytes()


@pytest.mark.parametrize(("tolerance", "code"), [("0.5", 0), ("1e-6", 1)])
def test_exit_codes(out, tolerance, code):
    given = ["--looks", "5", "--copies", "16", "--tolerance", tolerance, "--quiet", "--out", str(out)]
    assert main([*SMALL, *given]) == code


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--networks", "mpl"], "`networks` must be one of 'mlp', 'cnn', 'transformer'; got 'mpl'"),
        (["--looks", "2", "1"], "`looks` must increase"),
        (["--copies", "2"], "`copies` must be a whole number >= 8; got 2"),
        (["--beta", "1"], "`beta` must lie in (0, 1)"),
        (["--networks", "collections:OrderedDict"], "A network must be a torch.nn.Module; got a OrderedDict"),
    ],
)
def test_wrong_options_are_2(out, capsys, args, message):
    assert main([*SMALL, *args, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
