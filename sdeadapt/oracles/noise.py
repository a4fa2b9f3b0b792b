r"""Noise laws: componentwise maps of a standard normal, with mean 0 and variance 1.

A law is increasing in the normal that it is made of, so that a chain with any noise couples with a Brownian motion.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from scipy import special
from torch import Tensor

from sdeadapt.checks import check_choice, check_integer
from sdeadapt.oracles.base import NotDeclared, Stream

__all__ = [
    "MOST_NODES",
    "Gaussian",
    "Laplace",
    "Noise",
    "NoiseStream",
    "ShiftedExponential",
    "StudentT",
    "TwoPoint",
    "Uniform",
    "noise",
    "standard_normal",
]

MOST_NODES = 100_000  # of a quadrature rule over an oracle's draws


def standard_normal(
    generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype = torch.float64, heavy: bool = False
) -> Tensor:
    """Return standard normals in `dtype`, drawn in float32 and cast: three times as fast as float64 draws.

    Args:
        generator: where they come from; they live on its device.
        shape: of the result.
        dtype: of the result.
        heavy: draw in float64. Float32 draws stop at |xi| = 5.8, which heavy tails feel.
    """
    drawn = torch.float64 if heavy else torch.float32
    return torch.randn(shape, generator=generator, dtype=drawn, device=generator.device).to(dtype)


class Noise(ABC):
    """A law of one noise component: mean 0, variance 1. A frozen dataclass with `map`, `third` and `fourth` is one."""

    @property
    @abstractmethod
    def third(self) -> float:
        """E z^3; nan where it does not exist."""

    @property
    @abstractmethod
    def fourth(self) -> float:
        """E z^4; inf where it does not exist."""

    @property
    def heavy(self) -> bool:
        """The law needs normals drawn in float64: float32 draws can misjudge its variance by more than 3e-6."""
        return False

    @abstractmethod
    def map(self, xi: Tensor) -> Tensor:
        """Return z for standard normals `xi`, componentwise and increasing, in the dtype of `xi`."""

    def nodes(self, n: int) -> tuple[Tensor, Tensor]:
        """Return a quadrature rule (z, weights) of about `n` >= 2 nodes, in float64.

        Raises:
            NotDeclared: if the law has none.
        """
        raise NotDeclared(f"{type(self).__name__} does not declare `nodes`, a quadrature rule for its law.")

    def cdf(self, z: Tensor) -> Tensor:
        """Return P(noise < z), componentwise, for a law without atoms.

        Raises:
            NotDeclared: if the law has none.
        """
        raise NotDeclared(f"{type(self).__name__} does not declare `cdf`, a continuous distribution function.")


def _rule(z: np.ndarray, weights: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(z), torch.from_numpy(weights / weights.sum())


@dataclass(frozen=True)
class Gaussian(Noise):
    """The standard normal itself. Nodes: Gauss–Hermite, exact up to degree 2n - 1.

    >>> z, weights = Gaussian().nodes(3)
    >>> round(float(weights @ z**4), 12)
    3.0
    """

    third, fourth = 0.0, 3.0

    def map(self, xi: Tensor) -> Tensor:
        """Return `xi`."""
        return xi

    def nodes(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the Gauss–Hermite rule."""
        return _rule(*special.roots_hermitenorm(check_integer("n", n, minimum=2)))

    def cdf(self, z: Tensor) -> Tensor:
        """Return Phi(z)."""
        return torch.special.ndtr(z)


@dataclass(frozen=True)
class TwoPoint(Noise):
    r"""Two values, $(s \pm \sqrt{s^2 + 4})/2$, with any skewness s; s = 0 is a fair sign. Nodes: the two, exact.

    Args:
        skewness: s = E z^3, any finite number. Of all laws with this skewness it has the least fourth moment, s^2 + 1.

    >>> TwoPoint(skewness=1.5).map(torch.tensor([-1.0, 2.0]))
    tensor([-0.5000,  2.0000])
    """

    skewness: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.skewness):
            raise ValueError(f"`skewness` must be finite; got {self.skewness!r}.")

    @property
    def third(self) -> float:
        """The skewness."""
        return self.skewness

    @property
    def fourth(self) -> float:
        """s^2 + 1."""
        return self.skewness**2 + 1

    @property
    def heavy(self) -> bool:
        """Whether the rarer value is so rare that float32 draws misjudge its probability."""
        return abs(self.skewness) > 20

    @cached_property
    def values(self) -> tuple[float, float]:
        """The lower and the upper value; their product is -1."""
        larger = (abs(self.skewness) + math.hypot(self.skewness, 2)) / 2
        return (-1 / larger, larger) if self.skewness >= 0 else (-larger, 1 / larger)

    @cached_property
    def threshold(self) -> float:
        """The normal quantile above which `map` takes the upper value."""
        return float(-special.ndtri(1 / (1 + self.values[1] ** 2)))

    def map(self, xi: Tensor) -> Tensor:
        """Return the upper value where `xi` exceeds the threshold, else the lower."""
        lower, upper = self.values
        return torch.where(xi > self.threshold, xi.new_full((), upper), xi.new_full((), lower))

    def nodes(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the two values and their probabilities, whatever `n`."""
        check_integer("n", n, minimum=2)
        z = np.array(self.values)
        return _rule(z, 1 / (1 + z**2))


@dataclass(frozen=True)
class Uniform(Noise):
    r"""Uniform on $[-\sqrt 3, \sqrt 3]$. Nodes: Gauss–Legendre, exact up to degree 2n - 1."""

    third, fourth = 0.0, 1.8

    def map(self, xi: Tensor) -> Tensor:
        r"""Return $\sqrt 3\,\mathrm{erf}(\xi/\sqrt 2)$."""
        return math.sqrt(3) * torch.erf(xi / math.sqrt(2))

    def nodes(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the Gauss–Legendre rule."""
        x, weights = special.roots_legendre(check_integer("n", n, minimum=2))
        return _rule(math.sqrt(3) * x, weights)

    def cdf(self, z: Tensor) -> Tensor:
        r"""Return $(1 + z/\sqrt 3)/2$, between 0 and 1."""
        return (0.5 + z / math.sqrt(12)).clamp(0, 1)


@dataclass(frozen=True)
class Laplace(Noise):
    r"""Two-sided exponential of variance 1. Nodes: Gauss–Laguerre on each side, exact up to degree max(n - 1, 3)."""

    third, fourth = 0.0, 6.0

    def map(self, xi: Tensor) -> Tensor:
        r"""Return $-\mathrm{sign}(\xi)\,\log(2\Phi(-|\xi|))/\sqrt 2$."""
        survival = torch.special.log_ndtr(-xi.abs()) + math.log(2)
        return torch.copysign(survival / math.sqrt(2), xi)

    def nodes(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the Gauss–Laguerre rule on each side, with two nodes or more per side."""
        x, weights = special.roots_laguerre(max(2, (check_integer("n", n, minimum=2) + 1) // 2))
        return _rule(np.concatenate([-x[::-1], x]) / math.sqrt(2), np.concatenate([weights[::-1], weights]))

    def cdf(self, z: Tensor) -> Tensor:
        r"""Return $e^{\sqrt 2 z}/2$ below 0, one less its mirror image above."""
        tail = torch.exp(math.sqrt(2) * torch.where(z < 0, z, -z)) / 2
        return torch.where(z < 0, tail, 1 - tail)


@dataclass(frozen=True)
class ShiftedExponential(Noise):
    """Exp(1) - 1, skewness 2. Nodes: Gauss–Laguerre, exact up to degree 2n - 1."""

    third, fourth = 2.0, 9.0

    def map(self, xi: Tensor) -> Tensor:
        r"""Return $-\log\Phi(-\xi) - 1$."""
        return -torch.special.log_ndtr(-xi) - 1

    def nodes(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the Gauss–Laguerre rule."""
        x, weights = special.roots_laguerre(check_integer("n", n, minimum=2))
        return _rule(x - 1, weights)

    def cdf(self, z: Tensor) -> Tensor:
        """Return 1 - exp(-(z + 1)) above -1."""
        return -torch.expm1(-(z + 1).clamp_min(0))


@dataclass(frozen=True)
class StudentT(Noise):
    r"""Student's t with `df` degrees of freedom, scaled to variance 1; moments of order `df` and above are infinite.

    With $t = \sqrt{\nu}\,x/\sqrt{1 - x^2}$ the law of x has the Gegenbauer weight $(1 - x^2)^{\nu/2 - 1}$. The nodes
    are those of the weight $(1 - x^2)^{\nu/2 - 1 - k}$, divided by what was added: exact for polynomials in t of
    degree 2k + 1, and of spectral accuracy for smooth functions of x, such as those of t that level off. (A bounded
    function that oscillates for ever is no such: E cos z at df = 3 is off by 8e-4 with 40 nodes.) Here k is the
    largest integer below both $\nu/2$ and n, so that every even moment that exists is exact once n > k.

    Args:
        df: degrees of freedom, above 2.

    >>> z, weights = StudentT(df=5.0).nodes(4)
    >>> round(float(weights @ z**4), 10)
    9.0
    """

    df: float = 5.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.df) and self.df > 2):
            raise ValueError(f"`df` must be finite and above 2, so that the variance exists; got {self.df!r}.")

    heavy = True

    @property
    def third(self) -> float:
        """0 by symmetry, where it exists."""
        return 0.0 if self.df > 3 else math.nan

    @property
    def fourth(self) -> float:
        """3 (df - 2)/(df - 4), where it exists."""
        return 3 * (self.df - 2) / (self.df - 4) if self.df > 4 else math.inf

    def map(self, xi: Tensor) -> Tensor:
        r"""Return the quantile of Phi(xi), to a relative 1e-10 in float64 for |xi| <= 9.

        In Wallace's coordinate $y = \sqrt{\nu\log(1 + t^2/\nu)}$ the quantile is nearly linear (Wallace 1959), and
        y/xi is a polynomial in s = xi^2/(xi^2 + 24) to that accuracy.
        """
        square = xi.square()
        s = square.clamp(max=_EDGE**2)
        s = s.div_(s + _BEND).mul_(2 / _S_EDGE).sub_(1)
        first, *rest = _wallace_ratio(self.df)
        ratio = torch.full_like(s, first)
        for coefficient in rest:
            ratio.mul_(s).add_(coefficient)
        size = torch.expm1(ratio.square_().mul_(square).div_(self.df)).mul_(self.df - 2).sqrt_()
        return torch.copysign(size, xi)

    def nodes(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the rule described above."""
        k = min(math.ceil(self.df / 2), check_integer("n", n, minimum=2)) - 1
        x, weights = special.roots_gegenbauer(n, self.df / 2 - k - 0.5)
        gap = 1 - x**2
        return _rule(math.sqrt(self.df - 2) * x / np.sqrt(gap), weights * gap**k)

    def cdf(self, z: Tensor) -> Tensor:
        r"""Return the distribution function, to 1e-11: Phi(xi), where xi/y is a polynomial in $y^2/(y^2 + 24)$."""
        ratio = (z.square() / (self.df - 2)).clamp_min(1e-30)  # t^2/nu; at 0 it has a derivative this way
        wallace = torch.log1p(ratio)
        s = (self.df * wallace).clamp(max=_EDGE**2)
        s = s / (s + _BEND) * (2 / _S_EDGE) - 1
        first, *rest = _normal_ratio(self.df)
        slope = torch.full_like(s, first)
        for coefficient in rest:
            slope = slope * s + coefficient
        return torch.special.ndtr(z * torch.sqrt(wallace / ratio) * (slope / math.sqrt(1 - 2 / self.df)))


_EDGE, _BEND, _TERMS = 9.0, 24.0, 20  # normals beyond the edge, of probability 2e-19, keep its ratio
_S_EDGE = _EDGE**2 / (_EDGE**2 + _BEND)


@lru_cache(maxsize=64)
def _wallace_ratio(df: float) -> tuple[float, ...]:
    """Return the coefficients of y/xi in 2 s/s_edge - 1, highest first, by interpolation at Chebyshev points."""
    points = np.cos(np.pi * (np.arange(_TERMS) + 0.5) / _TERMS)
    s = _S_EDGE * (1 + points) / 2
    xi = np.sqrt(_BEND * s / (1 - s))
    # From the centre for small xi and from the tail for large: each is accurate where the other cancels.
    centre = special.betaincinv(0.5, df / 2, special.erf(np.minimum(xi, 1) / math.sqrt(2)))
    tail = special.stdtrit(df, special.ndtr(-np.maximum(xi, 1)))
    y = np.sqrt(df * np.where(xi < 1, -np.log1p(-centre), np.log1p(tail**2 / df)))
    chebyshev = np.polynomial.chebyshev.chebfit(points, y / xi, _TERMS - 1)
    return tuple(float(c) for c in np.polynomial.chebyshev.cheb2poly(chebyshev)[::-1])


@lru_cache(maxsize=64)
def _normal_ratio(df: float) -> tuple[float, ...]:
    """Return the same for the inverse map: the coefficients of xi/y at the coordinate y of Student's t."""
    points = np.cos(np.pi * (np.arange(_TERMS) + 0.5) / _TERMS)
    s = _S_EDGE * (1 + points) / 2
    y = np.sqrt(_BEND * s / (1 - s))
    centre = math.sqrt(2) * special.erfinv(special.betainc(0.5, df / 2, -np.expm1(-(np.minimum(y, 1) ** 2) / df)))
    tail = -special.ndtri(special.betainc(df / 2, 0.5, np.exp(-(np.maximum(y, 1) ** 2) / df)) / 2)
    chebyshev = np.polynomial.chebyshev.chebfit(points, np.where(y < 1, centre, tail) / y, _TERMS - 1)
    return tuple(float(c) for c in np.polynomial.chebyshev.cheb2poly(chebyshev)[::-1])


_LAWS: dict[str, type[Noise]] = {
    "gaussian": Gaussian,
    "two-point": TwoPoint,
    "uniform": Uniform,
    "laplace": Laplace,
    "student-t": StudentT,
    "exponential": ShiftedExponential,
}


def noise(law: str | Noise) -> Noise:
    """Return a noise law by its name, with default parameters, or the law itself.

    Args:
        law: "gaussian", "two-point", "uniform", "laplace", "student-t" or "exponential" (hyphens and underscores are
            equal), or a `Noise`.

    Returns:
        The law.

    Raises:
        ValueError: if no law has that name.

    >>> noise("two_point")
    TwoPoint(skewness=0.0)
    """
    if isinstance(law, Noise):
        return law
    return _LAWS[check_choice("noise", law.replace("_", "-"), _LAWS)]()


class NoiseStream(Stream):
    """Independent draws z = map(xi), (paths, noise_dim), of one law."""

    def __init__(
        self, law: Noise, generator: torch.Generator, paths: int, noise_dim: int, dtype: torch.dtype = torch.float64
    ) -> None:
        self.law, self.generator, self.shape, self.dtype = law, generator, (paths, noise_dim), dtype

    def next(self, xi: Tensor | None = None) -> Tensor:
        """Return z, made of `xi` where it is given."""
        if xi is None:
            xi = standard_normal(self.generator, self.shape, self.dtype, self.law.heavy)
        return self.law.map(xi.to(self.dtype))
