r"""SDEs that are affine, recognised by looking at them: a user's own is treated like the library's.

In x = (theta, m), all fields of the Point but u, the drift is $A(t, u)\,x + b(t, u)$, and u runs its own deterministic
course. The noise M is constant in x, or a multiple $c(t) \otimes S(\theta)$ of the oracle's, or $M M^T$ is quadratic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from sdeadapt.methods.base import ItoSDE
from sdeadapt.oracles.base import Oracle
from sdeadapt.verification.affine import TOLERANCE, Law, affine_flow, expectation, is_polynomial, kron, probe_lines
from sdeadapt.verification.moment_series import MomentOperator

__all__ = ["AffineSDE", "Coordinates", "NotClosed"]

MOST_COORDINATES = 1024
_TIMES = 129  # at which coefficients are compared before they are called constant
_MOST_ENTRIES = 200_000  # of M at all the points that E M M^T is averaged over
_FRACTIONS = (0.0, 0.137, 0.419, 0.733, 1.0)  # of the time, at which the form of the equation is looked at


class NotClosed(ValueError):
    """The first two moments do not close; the message is the reason."""


@dataclass(frozen=True)
class Coordinates:
    """How the fields of a Point make a row x: all but u, side by side.

    Args:
        point: the NamedTuple.
        dim: of theta.
    """

    point: type
    dim: int

    @property
    def names(self) -> tuple[str, ...]:
        """The fields that x is made of, theta first."""
        return tuple(name for name in self.point._fields if name != "u")  # type: ignore[attr-defined]

    @property
    def size(self) -> int:
        """The number D of coordinates of x."""
        return len(self.names) * self.dim

    def to_point(self, x: Tensor, u: Tensor | None) -> Any:
        """Return the Point of rows x (n, D), all at the same u (dim,)."""
        fields = dict(zip(self.names, x.split(self.dim, -1), strict=True))
        if u is not None:
            fields["u"] = u.expand(len(x), -1).clone()
        return self.point(**fields)

    def to_rows(self, point: Any, like: Tensor) -> Tensor:
        """Return x, (n, D), of a Point whose missing fields are zero, with as many rows as `like`."""
        fields = point._asdict()
        parts = [torch.zeros_like(like[:, : self.dim]) if fields[n] is None else fields[n] for n in self.names]
        return torch.cat([part.expand(len(like), -1) for part in parts], 1)


class _Look(NamedTuple):
    """Coefficients at one time: A (D, D), b (D,), rate of u (dim,), and of the noise M M^T (D, D) or c c^T (F, F)."""

    drift: Tensor
    shift: Tensor
    rate: Tensor | None
    noise: Tensor | None


@dataclass(frozen=True, eq=False)
class AffineSDE:
    """An SDE whose mean and covariance close. Made by `recognise`.

    Args:
        sde: the equation.
        oracle: the one that it was made for.
        coordinates: of its Point.
        form: of its noise: "constant", "oracle" (a multiple of the oracle's) or "quadratic".
        steady: the coefficients do not depend on time or u.
    """

    sde: ItoSDE
    oracle: Oracle
    coordinates: Coordinates
    form: str
    steady: bool

    @property
    def closed_form(self) -> bool:
        """Its moments need no integrator."""
        return self.steady and self.form != "quadratic"

    @classmethod
    def recognise(cls, sde: ItoSDE, oracle: Oracle, initial: Any, begin: float, end: float, steady: bool) -> AffineSDE:
        """Return the SDE as an affine one.

        Args:
            sde: the equation.
            oracle: the one that it was made for.
            initial: the starting Point, one or more rows.
            begin: the time at which it starts.
            end: the time up to which it runs.
            steady: False where the coefficients are known to depend on time.

        Raises:
            NotClosed: if it is not affine, or u is not deterministic.
        """
        coordinates = Coordinates(type(initial), initial.theta.shape[-1])
        if coordinates.size > MOST_COORDINATES:
            raise NotClosed(f"there are {coordinates.size} coordinates, more than {MOST_COORDINATES}")
        u = getattr(initial, "u", None)
        if u is not None and bool((u != u[0]).any()):
            raise NotClosed("the starting rows differ in u")
        x = coordinates.to_rows(initial, initial.theta)
        lines = probe_lines(x.mean(0), max(1.0, float(x.abs().max())))
        found = cls(sde, oracle, coordinates, "", False)
        forms = {"constant", "oracle", "quadratic"}
        for fraction in _FRACTIONS:
            for level in [None] if u is None else [u[0], u[0] + 1]:
                forms &= found._forms(begin + fraction * (end - begin), lines, level)
        form = next(f for f in ("constant", "oracle", "quadratic") if f in forms)
        if form == "quadratic" and 2 * coordinates.size**2 * sde.noise_dim > _MOST_ENTRIES:
            raise NotClosed("the SDE's noise depends on theta in a way of its own, and is too large to be averaged")
        steady = steady and u is None and found._is_steady(lines[:2, 1, 0], begin, end)
        return cls(sde, oracle, coordinates, form, steady)

    def _forms(self, t: float, lines: Tensor, u: Tensor | None) -> set[str]:
        """Return the forms that the noise may have at one time.

        Raises:
            NotClosed: if there is none, or the drift is not affine.
        """
        x = lines.flatten(0, 2)
        point, dw = self.coordinates.to_point(x, u), self._dw(x)
        drift, diffuse = self.sde.at(t, point)
        kick = diffuse(dw)
        kicks = self.coordinates.to_rows(kick, x)

        def on_lines(values: Tensor) -> Tensor:
            return values.reshape(*lines.shape[:3], -1)

        if not is_polynomial(on_lines(self.coordinates.to_rows(drift, x)), 1):
            raise NotClosed("the SDE's drift is not affine")
        if u is not None:
            moves = drift.u is not None and not is_polynomial(on_lines(drift.u.expand(len(x), -1)), 0)
            if moves or (kick.u is not None and bool((kick.u != 0).any())):
                raise NotClosed("the SDE's u is not deterministic")
        forms = {"quadratic"}
        if is_polynomial(on_lines(kicks), 0):
            forms.add("constant")
        if self.oracle.linear and self.sde.noise_dim == self.oracle.noise_dim:
            unit = self.oracle.at(point.theta).diffuse(dw)
            rest = kicks - _products(_multiples(kicks, unit), unit)
            if bool((on_lines(rest).abs().amax((0, 2)) <= TOLERANCE * on_lines(kicks).abs().amax((0, 2))).all()):
                forms.add("oracle")
        if len(forms) == 1:
            if len(x) * self.coordinates.size * self.sde.noise_dim > _MOST_ENTRIES:
                raise NotClosed("the SDE's noise is neither constant nor a multiple of the oracle's")
            if not is_polynomial(on_lines(self._covariances(t, x, u).flatten(1)), 2):
                raise NotClosed("the covariance of the SDE's noise is not quadratic in theta")
        return forms

    def _is_steady(self, x: Tensor, begin: float, end: float) -> bool:
        point, dw = self.coordinates.to_point(x, None), self._dw(x)
        seen: Tensor | None = None
        for t in np.linspace(begin, end, _TIMES):
            drift, diffuse = self.sde.at(float(t), point)
            now = torch.cat([self.coordinates.to_rows(part, x) for part in (drift, diffuse(dw))])
            if seen is not None and not torch.equal(now, seen):
                return False
            seen = now
        return True

    def _dw(self, x: Tensor) -> Tensor:
        """Return one fixed Brownian increment for every row of x."""
        return torch.as_tensor(np.random.default_rng(1).standard_normal(self.sde.noise_dim)).to(x).expand(len(x), -1)

    def _covariances(self, t: float, x: Tensor, u: Tensor | None) -> Tensor:
        """Return M M^T at every row of x, (n, D, D)."""
        columns = self.sde.noise_dim
        eye = torch.eye(columns, dtype=x.dtype, device=x.device).repeat(len(x), 1)
        rows = x.repeat_interleave(columns, 0)
        root = self.coordinates.to_rows(self.sde.at(t, self.coordinates.to_point(rows, u))[1](eye), rows)
        root = root.reshape(len(x), columns, -1)
        return root.mT @ root

    def _look(self, t: float, u: Tensor | None, like: Tensor) -> _Look:
        """Return the coefficients at one time, from one look at the equation."""
        size, columns = self.coordinates.size, self.sde.noise_dim
        constant = self.form == "constant"  # then row j may hold column j of M, wherever the row is
        x = like.new_zeros(max(size + 1, columns) if constant else size + 1, size)
        x[:size].fill_diagonal_(1)
        point = self.coordinates.to_point(x, u)
        drift, diffuse = self.sde.at(t, point)
        b = self.coordinates.to_rows(drift, x)[: size + 1]
        rate = None if u is None else torch.zeros_like(u) if drift.u is None else drift.u[0]
        noise = None
        if constant:
            root = self.coordinates.to_rows(diffuse(torch.eye(len(x), columns).to(x)), x)[:columns]
            noise = root.T @ root
        elif self.form == "oracle":
            dw = self._dw(x)
            c = _multiples(self.coordinates.to_rows(diffuse(dw), x), self.oracle.at(point.theta).diffuse(dw))
            noise = torch.outer(c, c)
        return _Look((b[:size] - b[size]).T, b[size], rate, noise)

    def _noise(self, look: _Look, t: float, u: Tensor | None, law: Law) -> Tensor:
        """Return E M M^T."""
        d = self.coordinates.dim
        if self.form == "constant":
            assert look.noise is not None
            return look.noise
        if self.form == "oracle":
            assert look.noise is not None
            return kron(look.noise, self.oracle.mean_covariance(law.mean[:d], law.covariance[:d, :d]))
        return expectation(lambda x: self._covariances(t, x, u), law)

    def advance(
        self, law: Law, u: Tensor | None, begin: float, end: float, rtol: float = 1e-13
    ) -> tuple[Law, Tensor | None]:
        """Return the moments and u at `end` from those at `begin`: by series where
        coefficients are constant, otherwise by an integrator of order 8.
        """
        look = self._look(begin, u, law.mean) if self.steady else None
        if look is not None and look.noise is not None:
            if self.form == "constant":
                return affine_flow(look.drift, look.shift, look.noise, end - begin).of(law), u

            def noise(mean: Tensor, covariance: Tensor) -> Tensor:
                return self._noise(look, begin, u, Law(mean, covariance))

            return MomentOperator(look.drift, look.shift, noise, discrete=False).advance(law, end - begin), u
        size, split = self.coordinates.size, 0 if u is None else len(u)

        def unpack(y: np.ndarray) -> tuple[Law, Tensor | None]:
            parts = torch.as_tensor(y).to(law.mean).split([split, size, size * size])
            return Law(parts[1], parts[2].reshape(size, size)), parts[0] if split else None

        def pack(mean: Tensor, covariance: Tensor, rate: Tensor | None) -> np.ndarray:
            parts = [] if rate is None else [rate]
            return torch.cat([*parts, mean, covariance.flatten()]).cpu().numpy()

        def rates(t: float, y: np.ndarray) -> np.ndarray:
            now, level = unpack(y)
            at = look or self._look(t, level, now.mean)
            moved = at.drift @ now.covariance
            return pack(at.drift @ now.mean + at.shift, moved + moved.T + self._noise(at, t, level, now), at.rate)

        y0 = pack(*law, u)
        size0 = np.abs(y0).max() + (end - begin) * np.abs(rates(begin, y0)).max()
        solution = solve_ivp(rates, (begin, end), y0, method="DOP853", rtol=rtol, atol=1e-3 * rtol * (size0 or 1.0))
        return unpack(solution.y[:, -1])


def _multiples(kicks: Tensor, unit: Tensor) -> Tensor:
    """Return c with kicks (n, F d) nearest to c (x) unit (n, d), (F,)."""
    fields = kicks.unflatten(1, (-1, unit.shape[1]))
    return torch.einsum("nfd,nd->f", fields, unit) / unit.square().sum().clamp_min(1e-300)


def _products(c: Tensor, unit: Tensor) -> Tensor:
    return (c[:, None] * unit[:, None]).flatten(1)
