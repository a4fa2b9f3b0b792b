r"""Control variates of exactly known mean: the perturbation expansion about a deterministic reference path.

Chain and SDE are expanded separately about their noise-free recursion $\bar x_k$, in the coordinates of the Point
(all fields in a row, D numbers). With the gradient noise at the reference $\zeta_k = g(\bar\theta_k) - \nabla f$,
$$d' = A d + b\,\zeta, \quad \mu' = A \mu + c\,(\zeta^2 - \sigma^2 \mathrm{diag}\Sigma), \quad
  v' = A v + b\,(\partial_\theta\zeta\,[\delta]) + (\partial_x b\,[\delta])\,\zeta, \quad \delta = d + \mu .$$
The controls of a test function are $\nabla\varphi\cdot d$, $\nabla\varphi\cdot\mu$, $\nabla\varphi\cdot v$,
$d^T \nabla^2\varphi\, d / 2$ less its mean, and $d^T \nabla^2\varphi\, v$. Their means are zero *whatever* A, b, c and
the derivatives of the test function are, because $\zeta_k$ is independent of the past and has the declared covariance:
so these are taken by finite differences, and any method and any user's SDE is served. For a linear gradient,
$\bar\theta + d$ is the chain with u replaced by its deterministic path.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from sdeadapt.oracles.base import Draw, Local
from sdeadapt.simulation.solvers import Increments

if TYPE_CHECKING:
    from sdeadapt.simulation.paths import Level

__all__ = ["CONTROLS", "Expansion", "Terms"]

CONTROLS = 5
_STEP = 1e-5  # finite differences of coefficients, relative
_PHI_STEP = 1e-3  # of test functions, whose second derivatives are needed
_HERMITE = ((-2.3344142183389773, -0.7419637843027258, 0.7419637843027258, 2.3344142183389773),
            (0.045875854768068, 0.454124145231932, 0.454124145231932, 0.045875854768068))  # fmt: skip


class Terms(NamedTuple):
    """d, mu and v of every path, stacked: (D, 3, paths). Paths come last here: small matrices meet long rows."""

    stack: Tensor


class _ChainStep(NamedTuple):
    local: Local  # the oracle at the reference, one row
    gradient: Tensor  # (1, d)
    variance: Tensor  # (1, d): sigma^2 diag Sigma
    hessian: Tensor | None  # (d, d); None where the noise does not depend on theta
    a: Tensor  # (D, D)
    b: Tensor  # (F, d, 1)
    c: Tensor  # (F, d, 1)
    db: Tensor  # (F * d, D)


class _SDEStep(NamedTuple):
    a: Tensor  # (D, D)
    root: Tensor  # (D, noise_dim)
    droot: Tensor | None  # (noise_dim * D, D)


class _Look(NamedTuple):
    """Derivatives of the test functions at one recorded time, and the covariance of d there."""

    slope: Tensor  # (J, D)
    curvature: Tensor  # (J, D, D)
    mean: Tensor  # (J,)  E d^T curvature d / 2


def _neighbours(x: Tensor, relative: float, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows x, x + e_1, …, x + e_D, x − e_1, …, x − e_D and the lengths of the e_j."""
    length = relative * torch.maximum(x[0].abs(), scale)
    shift = torch.diag(length)
    return torch.cat([x, x + shift, x - shift]), length


def _difference(values: Tensor, length: Tensor) -> Tensor:
    """Return the Jacobian (n, D) of `values` (2D + 1, n) by central differences over the rows of `_neighbours`."""
    size = length.shape[0]
    return ((values[1 : size + 1] - values[size + 1 :]) / (2 * length[:, None])).T.contiguous()


@dataclass(frozen=True, eq=False)
class Expansion:
    """The expansion of one level. Coefficients are made on first use, in the process that uses them.

    Args:
        level: chain and SDE to expand. Its oracle declares gradient, diffuse and covariance_diagonal.
        second_order: carry v; worth its cost unless D is large.
    """

    level: Level
    second_order: bool = True

    @property
    def _fields(self) -> tuple[int, int]:
        point = self.level.initial
        return len(point), point.theta.shape[-1]

    @cached_property
    def _scale(self) -> Tensor:
        """A typical size of each coordinate, so that a difference at zero has a length."""
        flat = torch.cat(tuple(self.level.initial), -1)
        return flat.abs().amax(0).clamp_min(1e-2)

    def _point(self, flat: Tensor) -> Any:
        return type(self.level.initial)(*flat.split(self._fields[1], -1))

    # -- chain ---------------------------------------------------------------------------------------------------

    def _moments(self, flat: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Local]:
        """Return mean, slope b and curvature c of one iteration in the noise zeta, each (rows, F * d)."""
        level = self.level
        point = self._point(flat)
        local = level.oracle.at(point.theta)
        noise = (level.oracle.scale * local.covariance_diagonal.sqrt()).expand_as(point.theta)
        nodes = torch.tensor(_HERMITE, dtype=flat.dtype, device=flat.device)
        rows = [torch.cat([field] * 4) for field in point]
        g = (local.gradient + nodes[0, :, None, None] * noise).reshape(-1, noise.shape[-1])
        state = level.method.step(level.method.from_point(type(point)(*rows), level.oracle.scale), g, k)
        after = torch.cat(tuple(level.method.to_point(state, level.oracle.scale)), -1).reshape(4, *flat.shape)
        weighted = nodes[1, :, None, None] * after
        z = nodes[0, :, None, None]
        size = torch.cat([noise] * len(point), -1).clamp_min(1e-150)
        return weighted.sum(0), (weighted * z).sum(0) / size, (weighted * (z * z - 1)).sum(0) / (2 * size**2), local

    @cached_property
    def _chain(self) -> tuple[list[_ChainStep], dict[int, tuple[Tensor, Tensor]]]:
        level, (fields, d) = self.level, self._fields
        oracle = level.oracle
        flat = torch.cat(tuple(level.initial), -1)
        x, last = flat.mean(0, keepdim=True), level.records[-1]
        covariance = (flat - x).T @ (flat - x) / flat.shape[0]
        keep = {level.start, *level.records}
        steps, looks = [], {level.begin: (x, covariance)}
        for k in range(level.begin, last):
            rows, length = _neighbours(x, _STEP, self._scale)
            mean, b, c, _ = self._moments(rows, k)
            a, db = _difference(mean, length), _difference(b, length)
            local = oracle.at(x[:, :d])
            variance = oracle.scale**2 * local.covariance_diagonal
            hessian = None if oracle.additive or not self.second_order else oracle.hessian(x[:, :d])
            b, c = b[0].reshape(fields, d, 1), c[0].reshape(fields, d, 1)
            steps.append(_ChainStep(local, local.gradient, variance, hessian, a, b, c, db))
            eye = torch.eye(oracle.noise_dim, dtype=x.dtype, device=x.device)
            root = oracle.scale * oracle.at(x[:, :d].expand(oracle.noise_dim, -1)).diffuse(eye)  # (noise_dim, d)
            kick = (root[:, None, :] * b[:, :, 0]).reshape(oracle.noise_dim, -1)
            covariance = a @ covariance @ a.T + kick.T @ kick
            x = mean[:1]
            if k + 1 in keep:
                looks[k + 1] = (x, covariance)
        return steps, looks

    def chain_step(self, terms: Terms, k: int, draw: Draw) -> Terms:
        """Return the terms after iteration k with this draw."""
        s, oracle = self._chain[0][k - self.level.begin], self.level.oracle
        fields, d = self._fields
        zeta = (oracle.sample(s.local, draw) - s.gradient).T.contiguous()
        paths = zeta.shape[1]
        stack = (s.a @ terms.stack.view(-1, 3 * paths)).view(fields, d, 3, paths)
        stack[:, :, 0].addcmul_(zeta, s.b)
        stack[:, :, 1].addcmul_(zeta.square().sub_(s.variance.T), s.c)
        if self.second_order:
            delta = terms.stack[:, 0] + terms.stack[:, 1]
            stack[:, :, 2].addcmul_((s.db @ delta).view(fields, d, paths), zeta)
            if s.hessian is not None:
                moved = delta[:d]
                turn = oracle.sample_derivative(s.local, draw, moved.T.contiguous()).T - s.hessian @ moved
                stack[:, :, 2].addcmul_(turn, s.b)
        return Terms(stack.view(-1, 3, paths))

    # -- SDE -----------------------------------------------------------------------------------------------------

    @cached_property
    def _sde(self) -> tuple[list[_SDEStep], dict[int, tuple[Tensor, Tensor]]]:
        level, sde = self.level, self.level.sde
        assert sde is not None
        x, covariance = self._chain[1][level.start] if level.start > level.begin else self._start
        h, coarse = level.method.time_step, level.substeps // 2
        dt, m, keep = h / coarse, sde.noise_dim, set(level.records)
        steps, looks = [], {}
        size = x.shape[1]
        second = self.second_order and m * size * size <= 8192
        for k in range(level.start, level.records[-1]):
            for j in range(coarse):
                t = k * h + j * dt
                rows, length = _neighbours(x, _STEP, self._scale)
                drift, _ = sde.at(t, self._point(rows))
                mean = rows + dt * self._flat(drift, rows)
                a = _difference(mean, length)
                spread = rows if second else x
                _, diffuse = sde.at(t, self._point(spread.repeat_interleave(m, 0)))
                unit = torch.eye(m, dtype=x.dtype, device=x.device).repeat(spread.shape[0], 1)
                roots = self._flat(diffuse(unit), unit).reshape(spread.shape[0], m * size)
                root = roots[0].reshape(m, size).T.contiguous()
                steps.append(_SDEStep(a, root, _difference(roots, length) if second else None))
                covariance = a @ covariance @ a.T + dt * root @ root.T
                x = mean[:1]
            if k + 1 in keep:
                looks[k + 1] = (x, covariance)
        return steps, looks

    @cached_property
    def _start(self) -> tuple[Tensor, Tensor]:
        flat = torch.cat(tuple(self.level.initial), -1)
        x = flat.mean(0, keepdim=True)
        return x, (flat - x).T @ (flat - x) / flat.shape[0]

    def _flat(self, point: Any, like: Tensor) -> Tensor:
        """Return the fields of a drift or a diffusion in a row; None is zero."""
        zero = like.new_zeros(like.shape[0], self._fields[1])
        return torch.cat([zero if f is None else f.expand_as(zero) for f in point], -1)

    def sde_step(self, terms: Terms, k: int, coarse: Increments) -> Terms:
        """Return the terms after iteration k, over the coarse increments."""
        stack, steps = terms.stack, self._sde[0]
        first = (k - self.level.start) * coarse.dw.shape[0]
        for j, rows in enumerate(coarse.dw):
            s, dw = steps[first + j], rows.T.contiguous()
            noise_dim, paths = dw.shape
            after = (s.a @ stack.view(-1, 3 * paths)).view(-1, 3, paths)
            after[:, 0].addmm_(s.root, dw)
            if s.droot is not None:
                turned = (s.droot @ (stack[:, 0] + stack[:, 1])).view(noise_dim, -1, paths)
                after[:, 2] += turned.mul_(dw[:, None, :]).sum(0)
            stack = after
        return Terms(stack)

    # -- controls ------------------------------------------------------------------------------------------------

    def begin(self, point: Any) -> Terms:
        """Return the terms at time 0: the displacement of a random start, mu = v = 0."""
        d = (torch.cat(tuple(point), -1) - self._start[0]).T
        return Terms(torch.stack([d, torch.zeros_like(d), torch.zeros_like(d)], 1))

    def _look(self, x: Tensor, covariance: Tensor) -> _Look:
        size = x.shape[1]
        length = _PHI_STEP * torch.maximum(x[0].abs(), self._scale)
        e = torch.diag(length)
        i, j = torch.triu_indices(size, size, device=x.device)
        signs = ((1, 1), (1, -1), (-1, 1), (-1, -1))
        rows = torch.cat([x + e, x - e] + [x + s * e[i] + r * e[j] for s, r in signs])
        phi = self.level.evaluate(self._point(rows)).T  # (J, rows)
        slope = (phi[:, :size] - phi[:, size : 2 * size]) / (2 * length)
        pp, pm, mp, mm = phi[:, 2 * size :].reshape(phi.shape[0], 4, -1).unbind(1)
        curvature = phi.new_zeros(phi.shape[0], size, size)
        curvature[:, i, j] = (pp - pm - mp + mm) / (4 * length[i] * length[j])
        curvature = curvature + curvature.triu(1).transpose(1, 2)
        return _Look(slope, curvature, (curvature * covariance).sum((1, 2)) / 2)

    @cached_property
    def _chain_looks(self) -> dict[int, _Look]:
        return {k: self._look(*self._chain[1][k]) for k in self.level.records}

    @cached_property
    def _sde_looks(self) -> dict[int, _Look]:
        return {k: self._look(*self._sde[1][k]) for k in self.level.records}

    @staticmethod
    def _controls(terms: Terms, look: _Look) -> Tensor:
        d, mu, v = terms.stack.unbind(1)
        bent = look.curvature @ d  # (J, D, paths)
        square, cross = (bent * d).sum(1) / 2 - look.mean[:, None], (bent * v).sum(1)
        return torch.stack([look.slope @ d, look.slope @ mu, look.slope @ v, square, cross]).permute(2, 1, 0)

    def chain_controls(self, terms: Terms, k: int) -> Tensor:
        """Return the controls of every test function after k iterations, (paths, functions, CONTROLS)."""
        return self._controls(terms, self._chain_looks[k])

    def sde_controls(self, terms: Terms, k: int) -> Tensor:
        """Return the same for the SDE."""
        return self._controls(terms, self._sde_looks[k])

    def reference(self, k: int) -> Any:
        """Return the chain's reference point after k iterations (recorded ones only), one row."""
        return self._point(self._chain[1][k][0])

    def rates(self) -> dict[str, float]:
        """Return, per field, the largest relative change in one iteration: hH/P, c1 h, c2 h. They should be <= 1/8."""
        worst: dict[str, float] = {}
        for s in self._chain[0]:
            block = torch.eye(s.a.shape[0], dtype=s.a.dtype, device=s.a.device) - s.a
            for i, name in enumerate(self.level.initial._fields):
                d = self._fields[1]
                part = block[i * d : (i + 1) * d, i * d : (i + 1) * d]
                worst[name] = max(worst.get(name, 0.0), float(torch.linalg.eigvals(part).abs().max()))
        return worst
