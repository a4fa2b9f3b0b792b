"""The options of the commands: plain data with defaults, stored in a run's config.json and read back from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "CommonOptions",
    "CompareOptions",
    "NoiseOptions",
    "Options",
    "ScalingOptions",
    "SdeOptions",
    "UpdatesOptions",
    "VerifyOptions",
    "as_arguments",
    "asked",
    "on_top",
    "read_options",
]

_NOT_ASKED = ("out", "config", "workers", "quiet", "dry_run")  # none of them changes a result


@dataclass(frozen=True)
class CommonOptions:
    """What all commands have in common.

    Args:
        confidence: of every statement.
        seed: of all random numbers.
        device: cpu or cuda.
        dtype: float64 or float32.
        workers: processes; by default one per core. The numbers do not depend on it.
        out: directory of the run, new or empty. By default a new one in runs/.
        config: an earlier run's directory, or a JSON file of options. Repeats it; options given here come first.
        quiet: print the verdict alone.
    """

    confidence: float = 0.95
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float64"
    workers: int | None = None
    out: str | None = None
    config: str | None = None
    quiet: bool = False


@dataclass(frozen=True)
class Options(CommonOptions):
    """What the commands on a method and a problem have in common.

    Args:
        problem: digits, digits_linear, quadratic, one_dimensional, multiplicative, rippled, the networks digits_mlp,
            digits_cnn, digits_small; or package.module:function, which returns a Problem.
        problem_set: options of the problem, e.g. batch_size=16.
        method: sgd, momentum, rmsprop, rmspropw, adam, adamw, fadingadam, adagrad, adadelta, signsgd, signum,
            varianceadapted, momentumvarianceadapted; or package.module:Class. By default the one that the problem
            suggests.
        set: hyper-parameters, e.g. lr=.1 beta=.99; those left out are the ones that the problem suggests.
        horizon: SDE time at the end; by default the problem's.
        steps: the same in steps of the method.
        times: SDE times to look at; or, as a single whole number, how many.
        test_functions: theta_0, theta_0_squared, projection_0_squared, theta_norm_squared, loss, log_loss,
            gradient_norm_squared, noise_trace, mean_u, m_norm_squared, velocity_norm_squared; by default a set
            that is not blind.
    """

    problem: str = "digits"
    problem_set: tuple[str, ...] = ()
    method: str | None = None
    set: tuple[str, ...] = ()
    horizon: float | None = None
    steps: int | None = None
    times: int | tuple[float, ...] | None = None
    test_functions: tuple[str, ...] | None = None


@dataclass(frozen=True)
class SdeOptions(Options):
    """What `verify` and `compare` ask about the SDE.

    Args:
        sde: package.module:function, a recipe (method, oracle) -> ItoSDE. By default the method's own.
        start: SDE time at which the SDE takes over. By default 0, or 8 steps with bias correction.
        multipliers: divisors of lr, increasing.
        refine: what they stand for: svag (amplified noise), noise (the same law, rescaled) or step (oracle unchanged).
        solver: extrapolated, torchsde:euler, torchsde:milstein, torchsde:srk.
        substeps: steps of the SDE solver in one iteration, even.
    """

    sde: str | None = None
    start: float | None = None
    multipliers: tuple[int, ...] | None = None
    refine: str = "svag"
    solver: str = "extrapolated"
    substeps: int = 4


@dataclass(frozen=True)
class VerifyOptions(SdeOptions):
    """Is an SDE a weak approximation of an optimizer, of the claimed order? Without options: RMSprop on digits.

    Exit code: 0 confirmed, 1 refuted, 2 usage, 3 inconclusive, 4 any other failure.

    Args:
        order: of weak error, the claim.
        estimator: auto (the first that applies), moments or quadrature (both draw nothing), coupled, independent.
        atol: an error below atol * sqrt(E phi^2) counts as zero.
        reference: sde, or self (each step size against the next finer one; needs no SDE).
        power: also show what wrong SDEs would have looked like.
        paths: of chain and SDE, per level; or
        precision: standard error at the finest level as a share of the error expected there (0.065); or
        seconds: of one worker. Any of the three asks for Monte Carlo.
        points: of the quadrature's grid, one number per coordinate of the state;
        nodes: of the gradient's law there;
        radius: of the grid, in standard deviations.
        dry_run: run the pilot, print the plan and stop.
        local: compare the moments of one iteration instead, term by term: which one is wrong, and at which power of
            the step. Draws nothing, and takes small problems only.
    """

    order: int = 1
    estimator: str = "auto"
    atol: float = 0.0
    reference: str = "sde"
    power: bool = False
    paths: int | None = None
    precision: float | None = None
    seconds: float | None = None
    points: tuple[int, ...] | None = None
    nodes: int | None = None
    radius: float | None = None
    dry_run: bool = False
    local: bool = False


@dataclass(frozen=True)
class CompareOptions(SdeOptions):
    """Chain, refinements and SDE side by side on one clock: means, quantiles, distances, C-closeness.

    Exit code: 0 C-close, 1 not, 2 usage, 3 inconclusive, 4 any other failure.

    Args:
        times: SDE times to look at; or, as a single whole number, how many.
        quantiles: levels in (0, 1).
        closeness: C, the factor asked for.
        paths: of each process; by default 1024, or fewer where the problem says so.
        keep_paths: how many paths are kept as they are.
    """

    times: int | tuple[float, ...] | None = 50
    quantiles: tuple[float, ...] = (0.05, 0.5, 0.95)
    closeness: float = 2**0.5
    paths: int | None = None
    keep_paths: int = 8


@dataclass(frozen=True)
class ScalingOptions(Options):
    """Does a batch-size rule keep the trajectory? Several batch sizes after as many examples, against the base.

    Exit code: 0 confirmed at every kappa, 1 refuted at one, 2 usage, 3 inconclusive, 4 any other failure.

    Args:
        kappas: factors of the batch size, whole numbers; horizon and times are multiples of each of them, in steps.
        rule: own, linear (lr times kappa), sqrt (lr times its root), none; or package.module:function, a rule
            (method, kappa) -> method. With linear and sqrt the betas and eps follow as in the adaptive methods' own.
        margin: in standard deviations between runs of the base; by default the larger of 10 % of the mean and .5.
        test_functions: metrics beside log loss, |theta|², |grad f|² and Tr Sigma.
        runs: of each batch size; by default as many as the plan says, but not more than
        most_runs: of each batch size.
        dry_run: run the pilot, print the plan and stop.
    """

    kappas: tuple[int, ...] = (2, 4, 8)
    rule: str = "own"
    margin: float | None = None
    runs: int | None = None
    most_runs: int = 4096
    dry_run: bool = False


@dataclass(frozen=True)
class NoiseOptions(Options):
    """Do an SDE's assumptions hold here? Noise against signal, noise scale, skewness and kurtosis along a run.

    Exit code: 0 they hold at every time, 1 one fails, 2 usage, 3 inconclusive, 4 any other failure.

    Args:
        steps: length of the run in steps of the method; 0 looks at the problem's start alone.
        times: SDE times to look at beside the start; or, as a single whole number, how many.
        paths: runs whose parameters are looked at.
        draws: gradients at a point, a multiple of 64, where the oracle does not declare what is asked.
        estimate: everything from draws, even what the oracle declares.
        directions: how many random ones, and how many coordinates.
        window: steps in which skewness and kurtosis must have faded; by default the method's memory, 1 / (1 - beta), or
            one unit of SDE time if that is shorter.
        closeness: C; noise dominates where |grad f|² is at most C² - 1 of its trace.
        tolerance: of skewness and excess kurtosis left in a window.
        test_functions: play no part.
    """

    times: int | tuple[float, ...] | None = 8
    paths: int = 1
    draws: int = 4096
    estimate: bool = False
    directions: int = 8
    window: float | None = None
    closeness: float = 2**0.5
    tolerance: float = 0.3


@dataclass(frozen=True)
class UpdatesOptions(CommonOptions):
    """Do the updates of real networks on digits follow the law that normal gradients have, and until which step?

    Exit code: 0 they do, within the tolerance, 1 one leaves it, 2 usage, 3 inconclusive, 4 any other failure.

    Args:
        networks: mlp, cnn, transformer; or package.module:function, which returns a torch module for images
            (batch, 1, 8, 8) and ten classes.
        looks: steps m to look at, increasing.
        beta: of the exponential average of the squares; by default the simple average.
        lr: of the training; 0 leaves the networks as initialised.
        batch_size: examples per step.
        copies: independent networks of each architecture.
        layer: name of one parameter, of which all networks must have one; by default all coordinates.
        tolerance: distance of distribution functions up to which a network follows the law.
    """

    networks: tuple[str, ...] = ("mlp", "cnn", "transformer")
    looks: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 50)
    beta: float | None = None
    lr: float = 1e-3
    batch_size: int = 32
    copies: int = 128
    layer: str | None = None
    tolerance: float = 0.05


def read_options(path: Path) -> dict[str, Any]:
    """Return the options stored in a run directory or a JSON file.

    Raises:
        ValueError: if there are none.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"`--config` must be a run directory or a JSON file; got {str(path)!r}: {error}.") from error
    if not isinstance(stored, dict) or "oracle" in stored:
        raise ValueError(
            f"`--config` must hold command-line options; got {str(path)!r}. A report saved from Python holds none."
        )
    return stored


def as_arguments(stored: Mapping[str, Any]) -> list[str]:
    """Return stored options as a command line, so that they are checked as one."""
    words: list[str] = []
    for name, value in stored.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words += [f"--{flag}"] if value else []
        elif isinstance(value, Mapping):
            words += [f"--{flag}", *(f"{k}={v}" for k, v in value.items())]
        elif isinstance(value, list):
            words += [f"--{flag}", *map(str, value)] if value else []
        elif value is not None:
            words += [f"--{flag}", str(value)]
    return words


def on_top(options: CommonOptions, base: CommonOptions) -> CommonOptions:
    """Return the options with hyper-parameters given here added to those stored, if they are of the same thing."""
    if not (isinstance(options, Options) and isinstance(base, Options)):
        return options
    merged: dict[str, Any] = {}
    for name, owner in (("set", "method"), ("problem_set", "problem")):
        given, stored = getattr(options, name), getattr(base, name)
        added = () if given == stored else given
        same = getattr(options, owner) == getattr(base, owner)
        merged[name] = (*stored, *added) if same else added
    return dataclasses.replace(options, **merged)


def asked(options: CommonOptions) -> dict[str, Any]:
    """Return the options that a result depends on."""
    return {k: v for k, v in dataclasses.asdict(options).items() if k not in _NOT_ASKED}
