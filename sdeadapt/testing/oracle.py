"""Does an oracle's noise have the moments that it declares?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sdeadapt.checks import check_integer, check_open_unit
from sdeadapt.oracles.base import Draw, Local, NotDeclared, Oracle
from sdeadapt.oracles.noise import Noise, standard_normal
from sdeadapt.oracles.sampling import Minibatch
from sdeadapt.simulation.randomness import Purpose, SeedTree
from sdeadapt.statistics.intervals import critical_value
from sdeadapt.testing.comparison import Comparison

__all__ = ["OracleMismatch", "OracleReport", "check_oracle"]

_COORDINATES, _PROJECTIONS = 16, 8  # directions in which all second moments are compared


_GRADIENT, _DIAGONAL, _DIFFUSE = "gradient", "covariance_diagonal", "diffuse"
_THIRD, _FOURTH, _INDEPENDENCE = "third moments", "fourth moments", "independence of steps"
_RULE_COVARIANCE, _GIVEN_XI = "covariance over rule", "sample against scale * diffuse(xi)"
_RESCALED = "scale of rescaled(4)"
_WITH_XI = " of draws made with xi"
_QUANTITIES = ("loss", _GRADIENT, _DIAGONAL)
_VARIANCES = {_DIAGONAL, _DIFFUSE}
_SCALED = {_THIRD, _FOURTH, _RULE_COVARIANCE, _GIVEN_XI, _RESCALED}  # wrong as well where `scale` is


class OracleMismatch(AssertionError):
    """An oracle disagrees with its own samples, or with itself; the message names every quantity that does."""


@dataclass(frozen=True)
class OracleReport:
    """What `check_oracle` compared and found in agreement.

    Attributes:
        comparisons: one per quantity and row of theta.
        draws: samples behind each statistical comparison.
        level: chance of a false alarm, all comparisons together.
    """

    comparisons: tuple[Comparison, ...]
    draws: int
    level: float


def check_oracle(
    oracle: Oracle, theta: Tensor, *, draws: int = 16_384, rng: int = 0, level: float = 1e-6
) -> OracleReport:
    r"""Compare what an oracle declares with its samples, and its declarations with each other.

    From the samples, at each row of `theta`: their mean (`gradient`), their variances (`covariance_diagonal`), all
    products in up to 16 coordinates and 8 random projections (`diffuse`), third and fourth moments where it has a
    light-tailed `noise` law, and zero correlation between steps where it is `independent`; all of it again for draws
    made with xi, where it couples. Exactly: gradient and Hessian against the derivatives of the loss, diffuse against
    covariance_diagonal, a local of one row against one of many, overridden derivatives, `rescaled`, and the moments
    over every node of `rule` (of single examples, for a data set). What is not declared is not compared.

    Args:
        oracle: the oracle.
        theta: (dim,) or (rows, dim): where to look. A generic point sees more than a symmetric one.
        draws: samples per row of theta, >= 1000. With fewer than the default `level` holds for mild noise only.
        rng: seed.
        level: chance of a false alarm over all statistical comparisons together, in (0, 1). The z values are corrected
            for the skewness of what is averaged (Hall 1992, J. R. Statist. Soc. B 54, 221-228).

    Returns:
        What was compared.

    Raises:
        OracleMismatch: naming each quantity that disagrees, where, and by how many standard errors.
        ValueError: if an argument is out of its range.

    >>> from sdeadapt.oracles.analytic import Quadratic
    >>> report = check_oracle(Quadratic([1.0, 2.0], [1.0, 4.0], scale=0.5), torch.ones(2, dtype=torch.float64))
    >>> [c.name for c in report.comparisons if c.name.startswith("diffuse")]
    ['diffuse, linear in xi', 'diffuse', 'diffuse of draws made with xi']
    >>> max(c.deviation / c.limit for c in report.comparisons) < 1
    True
    """
    check_integer("draws", draws, minimum=1000)
    check_open_unit("level", level)
    if theta.dim() not in (1, 2) or theta.shape[-1] != oracle.dim or not theta.isfinite().all():
        raise ValueError(
            f"`theta` must be finite, ({oracle.dim},) or (rows, {oracle.dim}), as the oracle's `dim` says; got "
            f"{tuple(theta.shape)}."
        )
    tree = SeedTree.of(rng)
    exact: list[Comparison] = []
    sampled: list[_Sums] = []
    for i, row in enumerate(theta.reshape(-1, 1, oracle.dim).to(oracle.device, oracle.dtype)):
        look = _Look(oracle, row, tree.generator(Purpose.DIAGNOSTICS, i, 0, oracle.device))
        exact += look.exact()
        sampled += look.sampled(draws)
    critical = critical_value(1 - level, max(1, sum(len(s.declared) for s in sampled)))
    comparisons = (*exact, *(s.comparison(critical) for s in sampled))
    failed = [c for c in comparisons if not c.passed]
    if failed:
        lines = _scale_alone(failed, sampled, critical) or [f"{c.name}: {c.worst}." for c in failed]
        raise OracleMismatch(
            f"{type(oracle).__name__} must agree with its samples and with itself; these do not:\n  "
            + "\n  ".join(lines)
        )
    return OracleReport(comparisons, draws, level)


class _Sums:
    """Running sums of samples x less their declared means: J statistics of one kind."""

    def __init__(self, name: str, declared: Tensor, label: Callable[[int], str]) -> None:
        self.name, self.declared, self.label = name, declared.double(), label
        self.rounding = 1e3 * torch.finfo(declared.dtype).eps
        self.n, self.powers = 0, self.declared.new_zeros(3, len(declared))

    def add(self, x: Tensor) -> None:
        """Take in x (paths, J)."""
        d = x.double() - self.declared
        self.n += len(d)
        self.powers += torch.stack([d.sum(0), d.square().sum(0), (d * d.square()).sum(0)])

    @property
    def mean(self) -> Tensor:
        return self.powers[0] / self.n

    @property
    def sem(self) -> Tensor:
        """Standard errors, with a floor at the rounding that samples without variance show."""
        variance = (self.powers[1] / self.n - self.mean.square()).clamp_min(0)
        size = (self.powers[1] / self.n + self.declared.square()).max()
        return (variance / self.n + self.rounding**2 * size).sqrt()

    def z(self, ratio: float = 1.0) -> Tensor:
        """Return z values of mean(x) / ratio against the declared means, by Hall's transformation of Student's t."""
        mean, second, third = self.powers / self.n
        sem = self.sem
        skew = (third - 3 * mean * second + 2 * mean**3) / (self.n**2 * sem**3)  # of the mean, as sem is
        t = torch.where(sem > 0, (mean + self.declared * (1 - ratio)) / sem, 0)
        return t + skew * t.square() / 3 + skew.square() * t**3 / 27 + skew / 6

    def comparison(self, critical: float) -> Comparison:
        """Return the largest |z|, and in words the first that is half as large: components come before projections."""
        z = self.z().abs().nan_to_num(nan=math.inf)
        j = int((z >= z.max() / 2).nonzero()[0])
        worst = (
            f"{self.label(j)} is declared as {self.declared[j]:.6g}, the samples say "
            f"{self.declared[j] + self.mean[j]:.6g} ± {self.sem[j]:.2g} (z = {z[j]:.1f}, {self.n:,} draws)"
        )
        return Comparison(self.name, worst, float(z.max()), critical, len(z))


def _scale_alone(failed: list[Comparison], sampled: list[_Sums], critical: float) -> list[str]:
    """Return the blame of `scale`, if one factor on all variances explains every comparison that failed."""
    names = {c.name.removesuffix(_WITH_XI) for c in failed}
    variances = [s for s in sampled if s.name.removesuffix(_WITH_XI) in _VARIANCES]
    if not (names & _VARIANCES and names <= _VARIANCES | _SCALED):
        return []
    first = variances[0]
    ratio = float(1 + first.mean.sum() / first.declared.sum())
    if len(first.declared) < 2 or any((s.z(ratio).abs() > critical).any() for s in variances):
        return []
    worst = max(failed, key=lambda c: c.deviation)
    return [f"scale: the noise has {ratio:.4g} times the declared variance; {worst.name}: {worst.worst}."]


class _Look:
    """One row of theta: what is declared there, and what the samples say."""

    def __init__(self, oracle: Oracle, theta: Tensor, generator: torch.Generator) -> None:
        self.oracle, self.theta, self.generator = oracle, theta, generator
        self.tolerance = torch.finfo(theta.dtype).eps ** 0.5
        self.found: list[Comparison] = []
        near = theta + 0.01 * (1 + theta.abs()) * self._normal(3, oracle.dim)
        self.rows, self.many, self.one = near, oracle.at(near), oracle.at(theta)
        self.declared = {name: self._ask(partial(getattr, self.one, name)) for name in _QUANTITIES}
        self._directions()

    def _normal(self, *shape: int) -> Tensor:
        return standard_normal(self.generator, shape, self.theta.dtype, self.oracle.heavy)

    @staticmethod
    def _ask(question: Callable[[], Any]) -> Any:
        try:
            return question()
        except NotDeclared:
            return None

    def _directions(self) -> None:
        """Choose directions a, (m, dim), and take S^T a, (m, noise_dim), where `diffuse` is declared."""
        oracle, dim = self.oracle, self.oracle.dim
        order = torch.rand(dim, generator=self.generator, device=self.theta.device).argsort()
        self.coordinates = order[:_COORDINATES].sort().values
        units = self.theta.new_zeros(len(self.coordinates), dim).scatter(1, self.coordinates[:, None], 1.0)
        projections = self._normal(_PROJECTIONS if dim > 1 else 0, dim)
        self.a = torch.cat([units, projections / projections.norm(dim=1, keepdim=True)])
        self.pairs = torch.triu_indices(len(self.a), len(self.a)).tolist()
        self.root = None
        local, xi = self._repeated(len(self.a)), self.theta.new_zeros(len(self.a), oracle.noise_dim)
        if oracle.noise_dim and self._ask(lambda: local.diffuse(xi)) is not None:
            self.root = torch.func.vjp(local.diffuse, xi)[1](self.a)[0]

    def _repeated(self, paths: int) -> Local:
        return self.oracle.at(self.theta.expand(paths, -1).contiguous())

    def _name(self, i: int) -> str:
        known = len(self.coordinates)
        return f"component {self.coordinates[i]}" if i < known else f"projection {i - known}"

    def _pair_name(self, j: int) -> str:
        one, two = (self._name(index[j]) for index in self.pairs)
        return f"the variance of {one}" if one == two else f"the covariance of {one} and {two}"

    # -- exact comparisons -----------------------------------------------------------------------------------------

    def _shaped(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return `value` if it is finite and has the shape, type and device that the contract wants.

        Raises:
            OracleMismatch: if it does not.
        """
        if tuple(value.shape) != shape or value.dtype != self.theta.dtype or value.device != self.theta.device:
            raise OracleMismatch(
                f"`{name}` must have the shape {shape}, {self.theta.dtype} on {self.theta.device}, as theta is; got "
                f"{tuple(value.shape)}, {value.dtype} on {value.device}."
            )
        if not value.isfinite().all():
            raise OracleMismatch(f"`{name}` must be finite; got {int((~value.isfinite()).sum())} values that are not.")
        return value

    def _compare(self, name: str, got: Tensor, want: Tensor, size: float = 0.0) -> None:
        """Note the largest difference, relative to the largest number of the two or to `size`."""
        difference = (got - want).abs().flatten()
        size = max(size, float(want.abs().max()), float(got.abs().max()), torch.finfo(got.dtype).tiny)
        j = int(difference.nan_to_num(nan=math.inf).argmax())
        worst = f"{got.flatten()[j]:.8g} should equal {want.flatten()[j]:.8g}, to a relative {self.tolerance:.1g}"
        self.found.append(Comparison(name, worst, float(difference[j]) / size, self.tolerance, len(difference)))

    def exact(self) -> list[Comparison]:
        """Return every comparison that needs no statistics."""
        oracle, dim, p = self.oracle, self.oracle.dim, len(self.rows)
        draw = oracle.stream(self.generator, p).next()
        g = self._shaped("sample", oracle.sample(self.many, draw), (p, dim))
        size = float(g.abs().max())
        for name in _QUANTITIES:
            if self.declared[name] is not None:
                value = self._shaped(name, getattr(self.many, name), (p,) if name == "loss" else (p, dim))
                alone = torch.cat([getattr(oracle.at(row[None]), name) for row in self.rows])
                self._compare(f"rows of {name}, together and alone", value, alone)
        if self.declared["loss"] is not None and self.declared[_GRADIENT] is not None:
            slope = torch.func.grad(lambda x: oracle.at(x).loss.sum())(self.rows)
            self._compare("gradient against the derivative of the loss", self.many.gradient, slope, size)
        wide = self._repeated(p)
        self._compare("a local of one row", oracle.sample(self.one, draw), oracle.sample(wide, draw))
        self._derivatives(draw, size)
        if oracle.additive:
            noise = oracle.sample(wide, draw) - wide.gradient
            self._compare("additive noise at two points", g - self.many.gradient, noise, size)
        if self.root is not None:
            self._diffusion(size)
        half = self._ask(lambda: oracle.rescaled(4.0))
        if half is not None:
            self._compare(_RESCALED, g.new_tensor(half.scale), g.new_tensor(oracle.scale / 2))
        self._rule()
        return self.found

    def _derivatives(self, draw: Draw, size: float) -> None:
        """Compare derivatives that the oracle overrides with those of what they belong to."""
        oracle, kind = self.oracle, type(self.oracle)
        direction = self._normal(*self.rows.shape)
        if kind.sample_derivative is not Oracle.sample_derivative:
            plain = Oracle.sample_derivative(oracle, self.many, draw, direction)
            self._compare("sample_derivative", oracle.sample_derivative(self.many, draw, direction), plain, size)
        if kind.hessian is not Oracle.hessian and self.declared[_GRADIENT] is not None and oracle.dim <= 512:
            self._compare("hessian", oracle.hessian(self.theta), Oracle.hessian(oracle, self.theta), size)

    def _diffusion(self, size: float) -> None:
        """Compare diffuse with itself, with the diagonal, and with the samples where the noise is Gaussian."""
        oracle, root = self.oracle, self.root
        assert root is not None
        xi = self._normal(len(self.rows), oracle.noise_dim)
        moved = self._shaped(_DIFFUSE, self._repeated(len(xi)).diffuse(xi), (len(xi), oracle.dim))
        self._compare("diffuse, linear in xi", moved @ self.a.T, xi @ root.T)
        if self.declared[_DIAGONAL] is not None:
            squares = root.square().sum(1)[: len(self.coordinates)]
            diagonal = self.declared[_DIAGONAL][0]
            self._compare(
                "covariance_diagonal against diffuse", diagonal[self.coordinates], squares, float(diagonal.max())
            )
        if oracle.couples and oracle.gaussian:
            g = oracle.sample(self.many, oracle.stream(self.generator, len(xi)).next(xi))
            want = self.many.gradient + oracle.scale * self.many.diffuse(xi)
            self._compare(_GIVEN_XI, g, want, size)

    def _rule(self) -> None:
        """Compare the moments over a whole rule with the declared ones; single examples stand for a data set."""
        oracle = self.oracle
        found = self._ask(lambda: oracle.rule(4))
        if found is None and isinstance(oracle, Minibatch):
            oracle = oracle.with_batch(1)
            found = self._ask(lambda: oracle.rule(4))
        if found is None or self.declared[_GRADIENT] is None:
            return
        draws, weights = found
        g = oracle.sample(self.one, draws)
        self._compare("weights of rule", weights.sum(), torch.ones_like(weights[0]))
        noise = (g - self.declared[_GRADIENT]) @ self.a.T
        self._compare("mean over rule", weights @ g, self.declared[_GRADIENT][0], float(g.abs().max()))
        if self.root is not None:
            second = noise.T @ (noise * weights[:, None])
            self._compare(_RULE_COVARIANCE, second, oracle.scale**2 * self.root @ self.root.T)

    # -- statistical comparisons -----------------------------------------------------------------------------------

    def _statistics(self, suffix: str) -> dict[str, _Sums]:
        """Return an accumulator for every kind of statistic that the oracle lets one predict."""
        law, root = getattr(self.oracle, "noise", None), self.root
        expected: dict[str, tuple[Tensor, Callable[[int], str]]] = {}
        if self.declared[_GRADIENT] is not None:
            expected[_GRADIENT] = (self.declared[_GRADIENT][0], "component {}".format)
        if not isinstance(law, Noise) or law.fourth < math.inf:
            if self.declared[_DIAGONAL] is not None:
                expected[_DIAGONAL] = (self.declared[_DIAGONAL][0], "component {}".format)
            if root is not None:
                expected[_DIFFUSE] = ((root @ root.T)[tuple(self.pairs)], self._pair_name)
        if root is not None and isinstance(law, Noise) and not law.heavy:  # moments of twice the order exist
            square, cube, fourth = (root.pow(k).sum(1) for k in (2, 3, 4))
            expected[_THIRD] = (law.third * cube, self._name)
            expected[_FOURTH] = (3 * square**2 + (law.fourth - 3) * fourth, self._name)
        if self.oracle.independent:
            expected[_INDEPENDENCE] = (self.a.new_zeros(len(self.a)), self._name)
        return {name: _Sums(name + suffix, value, label) for name, (value, label) in expected.items()}

    def _values(self, g: Tensor, before: Tensor) -> dict[str, Tensor]:
        """Return the samples of every kind of statistic, from gradients (paths, dim) of two steps."""
        centre = self.declared[_GRADIENT]
        e, e0 = ((x - (x.mean(0) if centre is None else centre)) / self.oracle.scale for x in (g, before))
        y = e @ self.a.T
        first, second = self.pairs
        return {
            _GRADIENT: g,
            _DIAGONAL: e.square(),
            _DIFFUSE: y[:, first] * y[:, second],
            _THIRD: y**3,
            _FOURTH: y**4,
            _INDEPENDENCE: y * (e0 @ self.a.T),
        }

    def sampled(self, draws: int) -> list[_Sums]:
        """Return the sums over `draws` samples of the second step of as many paths."""
        oracle = self.oracle
        if oracle.scale == 0:
            return []
        chunk = max(64, min(draws, (1 << 27) // oracle.bytes_per_path))
        sums: list[_Sums] = []
        for suffix in ("", _WITH_XI) if oracle.couples else ("",):
            kinds = self._statistics(suffix)
            for start in range(0, draws, chunk):
                paths = min(chunk, draws - start)
                stream = oracle.stream(self.generator, paths)
                xi = [self._normal(paths, oracle.noise_dim) if suffix else None for _ in range(2)]
                before, g = (oracle.sample(self.one, stream.next(x)) for x in xi)
                values = self._values(self._shaped("sample", g, (paths, oracle.dim)), before)
                for name, kind in kinds.items():
                    kind.add(values[name])
            sums += kinds.values()
        return sums
