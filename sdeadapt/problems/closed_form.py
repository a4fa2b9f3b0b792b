"""Regressions on handwritten digits, and losses with declared noise."""

from __future__ import annotations

import math

import numpy as np
import torch

from sdeadapt.checks import check_integer
from sdeadapt.oracles.analytic import MultiplicativeNoise, Quadratic, Rippled
from sdeadapt.oracles.finite_sum import LinearRegression, LogisticRegression
from sdeadapt.problems.base import Problem, Suggestion, adaptive

__all__ = ["digit_features", "digits", "digits_linear", "multiplicative", "one_dimensional", "quadratic", "rippled"]


def digit_features(components: int, first: int, second: int) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised principal components (examples, components) of two digits, and whether each is the second.

    Raises:
        ValueError: if an option is out of its range.
    """
    from sklearn.datasets import load_digits

    check_integer("components", components)
    if first == second or not {first, second} <= set(range(10)):
        raise ValueError(f"`first` and `second` must be two different digits; got {first} and {second}.")
    pixels, labels = load_digits(return_X_y=True)
    keep = np.isin(labels, (first, second))
    centred = pixels[keep] - pixels[keep].mean(0)
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    if components > (rank := int((sizes > 1e-9 * sizes[0]).sum())):
        raise ValueError(f"`components` must be at most {rank}, the rank of these images; got {components}.")
    directions = directions[:components]
    directions *= np.sign(directions[np.arange(components), np.abs(directions).argmax(1)])[:, None]  # the SVD's is free
    features = centred @ directions.T
    return features / features.std(0), labels[keep] == second


def digits(
    *,
    components: int = 2,
    first: int = 3,
    second: int = 8,
    batch_size: int = 4,
    l2: float = 0.05,
    sampling: str = "replacement",
) -> Problem:
    r"""Return logistic regression of one handwritten digit against another, with true minibatch noise.

    Args:
        components: principal components kept, each standardised; the dimension of theta.
        first: the digit with label 0.
        second: the digit with label 1.
        batch_size: B; sigma² = 1/B.
        l2: lambda of $\tfrac\lambda2|\theta|^2$.
        sampling: "replacement", "batch" or "epoch".

    Returns:
        The problem; 357 examples of 3 against 8, from scikit-learn's copy of the UCI digits.

    Raises:
        ValueError: if an option is out of its range.

    Example:
        >>> digits(batch_size=16).oracle.scale
        0.25
    """
    features, labels = digit_features(components, first, second)
    oracle = LogisticRegression(
        torch.tensor(features), torch.tensor(labels), batch_size=batch_size, l2=l2, sampling=sampling
    )
    return Problem(
        name="digits",
        oracle=oracle,
        theta0=(0.5,) * components,
        horizon=0.5,
        about=f"logistic regression of {first} against {second} on {components} principal components, batches of "
        f"{batch_size}",
        suggested={**adaptive(0.02, multipliers=(1, 2, 4)), "sgd": Suggestion({"lr": 0.125}, horizon=1.0)},
    )


def digits_linear(
    *,
    components: int = 2,
    first: int = 3,
    second: int = 8,
    batch_size: int = 4,
    l2: float = 0.05,
    sampling: str = "replacement",
) -> Problem:
    """Return least squares on the targets −1 and 1 of two digits: a quadratic loss, a covariance quadratic in theta.

    Args:
        components: as for `digits`, like all options.
        first: the digit with target −1.
        second: the digit with target 1.
        batch_size: B.
        l2: lambda.
        sampling: "replacement", "batch" or "epoch".

    Raises:
        ValueError: if an option is out of its range.
    """
    features, labels = digit_features(components, first, second)
    oracle = LinearRegression(
        torch.tensor(features), torch.tensor(2.0 * labels - 1), batch_size=batch_size, l2=l2, sampling=sampling
    )
    return Problem(
        name="digits_linear",
        oracle=oracle,
        theta0=(0.5,) * components,
        horizon=0.5,
        about=f"least squares of {first} against {second} on {components} principal components, batches of "
        f"{batch_size}",
        suggested={**adaptive(0.02, multipliers=(1, 2, 4)), "sgd": Suggestion({"lr": 0.0625})},
    )


def quadratic(*, scale: float = 2.0, noise: str = "gaussian") -> Problem:
    """Return a quadratic loss in two dimensions whose Hessian and noise covariance do not commute.

    Args:
        scale: sigma.
        noise: the law of its components: "gaussian", "two-point", "uniform", "laplace", "student-t", "exponential".

    Raises:
        ValueError: if an option is out of its range.
    """
    return Problem(
        name="quadratic",
        oracle=Quadratic([[1.0, 0.2], [0.2, 0.5]], [[1.0, -0.3], [-0.3, 2.0]], scale, noise),
        theta0=(1.0, -1.0),
        horizon=1.0,
        about=f"quadratic loss, non-commuting Hessian and covariance, {noise} noise",
        suggested={**adaptive(0.05), "sgd": Suggestion({"lr": 0.0625})},
    )


def one_dimensional(*, scale: float = 4.0, noise: str = "gaussian", start: float = 1.5) -> Problem:
    r"""Return the standard test in one dimension, $f = \theta^2/2$ with $\Sigma = 1$: every SDE moment solves an ODE.

    Args:
        scale: sigma; 4 makes sigma0 = 1 at the suggested lr = 1/4.
        noise: as for `quadratic`.
        start: theta0; RMSprop starts at u = 2.

    Raises:
        ValueError: if an option is out of its range.
    """
    return Problem(
        name="one_dimensional",
        oracle=Quadratic([[1.0]], [[1.0]], scale, noise),
        theta0=(start,),
        horizon=1.0,
        about=f"f = theta^2 / 2 with constant {noise} noise",
        suggested={**adaptive(0.1, initial={"u": (2.0,)}), "sgd": Suggestion({"lr": 0.0625})},
    )


def multiplicative(*, scale: float = 1.0, noise: str = "gaussian", angle: float = 0.5) -> Problem:
    """Return Li, Tai and E's problem with noise that vanishes at the minimum, in two dimensions.

    Args:
        scale: sigma.
        noise: as for `quadratic`.
        angle: of the rotation Q, in radians.

    Raises:
        ValueError: if an option is out of its range.

    Li, Tai, E 2019 (arXiv 1811.01558), Section 5.
    """
    c, s = math.cos(angle), math.sin(angle)
    return Problem(
        name="multiplicative",
        oracle=MultiplicativeNoise([1.0, 0.5], [[c, -s], [s, c]], scale, noise),
        theta0=(1.0, -1.0),
        horizon=1.0,
        about=f"noise proportional to the distance from the minimum, {noise}",
        suggested={"sgd": Suggestion({"lr": 0.0625}), **adaptive(0.1)},
    )


def rippled(*, dim: int = 2, scale: float = 2.0, noise: str = "exponential") -> Problem:
    """Return a smooth, asymmetric, non-quadratic loss with skewed noise whose size depends on theta.

    Args:
        dim: dimension of theta.
        scale: sigma.
        noise: as for `quadratic`; the default is skewed, so that SVAG must remove its third moment.

    Raises:
        ValueError: if an option is out of its range.
    """
    return Problem(
        name="rippled",
        oracle=Rippled(scale, dim, noise=noise),
        theta0=tuple(1.0 if i % 2 == 0 else -1.0 for i in range(dim)),
        horizon=1.0,
        about=f"non-quadratic loss in {dim} dimensions, {noise} noise of varying size",
        suggested={**adaptive(0.05), "sgd": Suggestion({"lr": 0.0625})},
    )
