"""Named problems: options, suggestions that fit, and the package's lazily loaded names."""

import subprocess
import sys

import pytest
import torch

import sdeadapt
from sdeadapt.methods import METHODS, method
from sdeadapt.oracles.amplified import Amplified
from sdeadapt.problems import PROBLEMS, digits, problem
from sdeadapt.simulation.run import Run
from sdeadapt.verification.study import Study

PAIRS = [(name, key) for name, make in PROBLEMS.items() for key in make().suggested]


@pytest.mark.parametrize(("name", "key"), PAIRS)
def test_every_suggestion_makes_a_study(name, key):
    found = problem(name)
    suggested = found.suggested[key]
    study = Study.build(
        method(key, **suggested.options),
        found.oracle,
        theta0=found.theta0,
        horizon=suggested.horizon or found.horizon,
        steps=None,
        sde=None,
        multipliers=suggested.multipliers,
        refine="svag",
        order=1,
        initial=suggested.initial,
        start=None,
        times=None,
        test_functions=found.test_functions,
        solver="extrapolated",
        substeps=4,
        run=Run(),
    )
    assert study.h[0] <= 0.125
    assert isinstance(study.levels[-1].oracle, Amplified)


def test_registry_and_methods_agree():
    assert {key for _, key in PAIRS} <= set(METHODS)
    for name, make in PROBLEMS.items():
        assert make().name == name
        assert make().about


def test_names_and_options_are_forgiving():
    found = problem("One-Dimensional", SCALE="2", noise="two-point")
    assert found.oracle.scale == 2.0
    assert found.about.endswith("two-point noise")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, r"`problem` must be one of 'digits'.*got 'digit'\. Did you mean 'digits'\?"),
        ("digits", {"batchsise": 3}, r"`option of digits` must be one of .*Did you mean 'batch_size'\?"),
        ("digits", {"batch_size": "many"}, r"`batch_size` must be of type int; got 'many'\."),
        ("digits", {"batch_size": 400, "sampling": "batch"}, r"`batch_size` must be below the 357 examples"),
        ("digits", {"first": 8}, r"two different digits; got 8 and 8\."),
        ("digits", {"components": 65}, r"`components` must be at most \d+, the rank"),
        ("quadratic", {"scale": -1}, r"`scale` must be finite and not negative; got -1"),
        ("quadratic", {"noise": "gausian"}, r"`noise` must be one of .*Did you mean 'gaussian'\?"),
    ],
)
def test_what_is_wrong_is_said(name, options, message):
    with pytest.raises(ValueError, match=message):
        problem(name, **options)


def test_digits_are_standardised_principal_components():
    x = digits(components=3).oracle.features
    assert x.shape == (357, 3)
    covariance = x.T @ x / len(x)
    assert torch.allclose(covariance, torch.eye(3, dtype=x.dtype), atol=1e-12)
    assert torch.allclose(x.mean(0), torch.zeros(3, dtype=x.dtype), atol=1e-12)


def test_more_components_keep_the_first():
    two, four = (digits(components=n).oracle.features for n in (2, 4))
    assert torch.allclose(four[:, :2], two, rtol=0, atol=1e-12)


def test_labels_are_those_of_the_second_digit():
    assert int(digits().oracle.labels.sum()) == 174  # eights among 357 images
    assert int(digits(first=8, second=3).oracle.labels.sum()) == 183


def test_public_names_are_there():
    for name in sdeadapt.__all__:
        assert getattr(sdeadapt, name) is not None
        assert name in dir(sdeadapt)
    with pytest.raises(AttributeError, match="no attribute 'verfy'"):
        sdeadapt.verfy  # noqa: B018


def test_importing_the_package_is_cheap():
    code = "import sys, sdeadapt; print('torch' in sys.modules, 'numpy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]
