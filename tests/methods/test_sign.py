"""Sign methods: plain formulas, the law of a sign by other integrals, exact weak errors on a lattice, refusals."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from sdeadapt import Budget, compare, simulate, verify
from sdeadapt.methods import SignSGD, Signum
from sdeadapt.methods.sign_sgd import SignSGDPoint, sign_covariance
from sdeadapt.oracles.analytic import MultiplicativeNoise, Quadratic, Rippled
from sdeadapt.oracles.base import NotDeclared
from sdeadapt.oracles.functions import FromFunctions
from sdeadapt.oracles.noise import Gaussian, Laplace, Noise, ShiftedExponential, StudentT, TwoPoint, Uniform
from sdeadapt.verification.resolution import Resolution

F64 = torch.float64
HESSIAN = [[1.0, 0.4], [0.4, 2.0]]
COVARIANCE = [[2.0, -0.7], [-0.7, 0.5]]
CORRELATION = -0.7
THETA = [[1.0, -2.0]]


def tensor(values):
    return torch.tensor(values, dtype=F64)


def coefficients(sde, theta=THETA, t=0.5):
    """Drift (dim,) and diffusion matrix (dim, noise_dim) of theta at one point."""
    rows = SignSGDPoint(tensor(theta).expand(sde.noise_dim, -1))
    drift, diffuse = sde.at(t, rows)
    return drift.theta[0], diffuse(torch.eye(sde.noise_dim, dtype=F64)).theta.T


# -- the law of a sign -------------------------------------------------------------------------------------------------

LAWS = {
    Gaussian(): stats.norm(),
    Uniform(): stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
    Laplace(): stats.laplace(scale=math.sqrt(0.5)),
    ShiftedExponential(): stats.expon(loc=-1),
    **{StudentT(df): stats.t(df, scale=math.sqrt(1 - 2 / df)) for df in (2.05, 3.0, 5.0, 9.5, 1000.0)},
}


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_distribution_functions_are_scipys_and_invert_the_maps(law):
    z = torch.cat([-torch.logspace(3, -8, 400, dtype=F64), torch.zeros(1), torch.logspace(-8, 3, 400, dtype=F64)])
    expected = torch.from_numpy(LAWS[law].cdf(z.numpy()))
    torch.testing.assert_close(law.cdf(z), expected, rtol=0, atol=5e-12)
    xi = torch.linspace(-8, 8, 301, dtype=F64)
    torch.testing.assert_close(law.cdf(law.map(xi)), torch.special.ndtr(xi), rtol=0, atol=5e-12)
    inner = torch.linspace(-0.9, 0.9, 19, dtype=F64)  # 0 among them: the derivative is the density
    inner[9] = 0.0
    _, slope = torch.func.jvp(law.cdf, (inner,), (torch.ones_like(inner),))
    torch.testing.assert_close(slope, torch.from_numpy(LAWS[law].pdf(inner.numpy())), rtol=1e-8, atol=1e-9)


def reference_sign_covariance(a, b, correlation):
    """Cov(sign(a + x), sign(b + y)) by integrating the conditional mean of the second sign over x."""
    root = math.sqrt(1 - correlation**2)

    def product(x):
        second = special.erf((b + correlation * x) / (math.sqrt(2) * root))
        return math.copysign(1, a + x) * second * stats.norm.pdf(x)

    options = {"epsabs": 1e-13, "epsrel": 1e-13, "limit": 200}
    both = integrate.quad(product, -12, -a, **options)[0] + integrate.quad(product, -a, 12, **options)[0]
    return both - special.erf(a / math.sqrt(2)) * special.erf(b / math.sqrt(2))


@pytest.mark.parametrize("correlation", [-0.95, -0.7, 0.0, 0.3, 0.9])
def test_covariance_of_two_signs_is_its_integral(correlation):
    angles = torch.asin(tensor([[[0.0, correlation], [correlation, 0.0]]]))
    for a, b in ((0.0, 0.0), (0.3, -0.2), (1.1, 0.8), (-2.0, 1.5)):
        found = sign_covariance(tensor([[a, b]]), angles)[0]
        expected = reference_sign_covariance(a, b, correlation)
        assert float(found[0, 1]) == pytest.approx(expected, abs=1e-7)
        assert found.diagonal().tolist() == pytest.approx([1 - special.erf(v / math.sqrt(2)) ** 2 for v in (a, b)])
    at_zero = sign_covariance(None, angles)[0, 0, 1]
    assert float(at_zero) == pytest.approx(2 / math.pi * math.asin(correlation), abs=1e-15)
    assert float(at_zero) == pytest.approx(reference_sign_covariance(0.0, 0.0, correlation), abs=1e-12)
    if correlation:  # the twin: the covariance of the noise itself is not that of its signs
        assert abs(float(at_zero) - correlation) > 0.05


# -- the iteration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["batch-equivalent", "fixed-noise"])
def test_sign_sgd_is_the_plain_formula(scaling):
    gs = 0.3 + torch.randn(1000, 4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    method = SignSGD(0.01, scaling, schedule=lambda t: 1 / (1 + t))
    state, plain = method.init(torch.ones(4, 3, dtype=F64)), np.ones((4, 3))
    for k, g in enumerate(gs):
        state = method.step(state, g, k)
        plain = plain - 0.01 / (1 + k * method.time_step) * np.sign(g.numpy())
    assert np.abs(state.theta.numpy() / plain - 1).max() < 1e-12
    assert method.time_step == (0.01**2 if scaling == "batch-equivalent" else 0.01)
    assert method.refinement(4) == (16 if scaling == "batch-equivalent" else 4)
    assert method.rescaled(0.25).time_step == pytest.approx(method.time_step / 4, rel=1e-14)


def test_signum_is_the_plain_formula():
    gs = 0.3 + torch.randn(1000, 4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    method = Signum(0.01, beta=0.8)
    state, theta, m = method.init(torch.ones(4, 3, dtype=F64)), np.ones((4, 3)), np.zeros((4, 3))
    for k, g in enumerate(gs):
        state = method.step(state, g, k)
        m = 0.8 * m + 0.2 * g.numpy()
        theta = theta - 0.01 * np.sign(m)
    assert np.abs(state.theta.numpy() / theta - 1).max() < 1e-12
    finer = method.rescaled(1 / 16)
    assert (finer.lr, finer.beta, finer.one_minus_beta) == (0.0025, 0.8, method.one_minus_beta)


# -- the SDEs ----------------------------------------------------------------------------------------------------------


def one_step(oracle, theta, lr):
    """Mean and covariance of one iteration of SignSGD on correlated Gaussian noise, from the reference integrals."""
    here = oracle.at(tensor(theta))
    a, b = (here.gradient / (oracle.scale * here.covariance_diagonal.sqrt()))[0].tolist()
    mean = -lr * special.erf(np.array([a, b]) / math.sqrt(2))
    across = reference_sign_covariance(a, b, CORRELATION)
    return mean, lr**2 * np.array([[1 - (mean[0] / lr) ** 2, across], [across, 1 - (mean[1] / lr) ** 2]])


def one_step_errors(h, change=lambda drift, matrix: (drift, matrix)):
    lr = math.sqrt(h)
    oracle = Quadratic(HESSIAN, COVARIANCE, scale=1 / lr)
    drift, matrix = change(*coefficients(SignSGD(lr).sde(oracle)))
    mean, covariance = one_step(oracle, THETA, lr)
    second = (matrix @ matrix.T).numpy()
    return np.abs(mean / h / drift.numpy() - 1).max(), np.abs(covariance / h - second).max()


def test_where_noise_dominates_one_iteration_has_the_sdes_moments_up_to_order_h():
    assert math.isclose(CORRELATION, COVARIANCE[0][1] / math.sqrt(COVARIANCE[0][0] * COVARIANCE[1][1]))
    errors = np.array([one_step_errors(2.0**-j) for j in (8, 10, 12)])
    assert errors[-1].max() < 0.01
    assert np.all(np.abs(errors[:-1] / errors[1:] - 4) < 0.3)
    lost = one_step_errors(2.0**-12, lambda drift, matrix: (drift, torch.eye(2, dtype=F64)))  # no correlation
    assert lost[1] > 0.3
    assert one_step_errors(2.0**-12, lambda drift, matrix: (1.05 * drift, matrix))[0] > 0.04


def test_at_fixed_noise_drift_and_diffusion_are_those_of_one_iteration():
    method, oracle = SignSGD(0.1, "fixed-noise"), Quadratic(HESSIAN, COVARIANCE, scale=1.5)
    rippled = FromFunctions(  # the same noise, declared as a function of theta
        lambda x: x @ tensor(HESSIAN) @ x / 2, dim=2, covariance=lambda x: tensor(COVARIANCE) + 0 * x[0], scale=1.5
    )
    mean, covariance = one_step(oracle, THETA, 0.1)
    for problem in (oracle, rippled):
        drift, matrix = coefficients(method.sde(problem))
        assert drift.numpy() == pytest.approx(mean / 0.1, rel=1e-12)
        assert (matrix @ matrix.T).numpy() == pytest.approx(covariance / 0.1, rel=1e-9)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_at_fixed_noise_any_law_gives_the_moments_of_one_iteration(law, sign):
    """The iteration at the midpoints of 10^5 equal slices of probability: the mean of a sign to 1e-5."""
    n, method = 100_000, SignSGD(0.1, "fixed-noise", schedule=lambda t: 2 + t)
    xi = torch.special.ndtri((torch.arange(n, dtype=F64) + 0.5) / n)[:, None]
    oracle = MultiplicativeNoise(1.5, scale=2.0, noise=law)  # its S = theta is negative where theta is
    theta = torch.full((n, 1), sign * 0.8, dtype=F64)
    after = method.step(method.init(theta), oracle.sample(oracle.at(theta), law.map(xi)), 5).theta - theta
    drift, matrix = coefficients(method.sde(oracle), theta=[[sign * 0.8]], t=method.time(5))
    assert float(after.mean() / 0.1) == pytest.approx(float(drift), abs=5e-5)
    assert float(after.var(correction=0) / 0.1) == pytest.approx(float(matrix**2), abs=5e-5)
    with_noise = float((after * law.map(xi)).mean())  # the chain's kick and the SDE's go the same way
    assert with_noise * float(matrix) > 0


def test_the_batch_rule_leaves_the_sde_as_it_is_and_another_does_not():
    oracle = Quadratic(HESSIAN, COVARIANCE, scale=5.0)
    want = coefficients(SignSGD(0.2).sde(oracle))
    for kappa in (0.01, 0.3, 7.0):
        rules = {"square root": SignSGD(0.2).rescaled(kappa), "linear": SignSGD(0.2 * kappa), "none": SignSGD(0.2)}
        for name, method in rules.items():
            got = coefficients(method.sde(oracle.rescaled(kappa)))
            gap = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(got, want, strict=True))
            assert (gap < 1e-12) == (name == "square root")


def test_coefficients_can_be_differentiated():
    oracles = (Quadratic(HESSIAN, COVARIANCE, 2.0), Quadratic([1.0, 2.0], [1.0, 3.0], 2.0, StudentT(4.0)))
    for oracle in oracles:
        sde, e = SignSGD(0.1, "fixed-noise").sde(oracle), 1e-6
        theta, dw, way = tensor([[0.0, 0.0], [0.5, -1.0]]), tensor([[0.3, -0.8]]).expand(2, -1), tensor([[1.0, 0.3]])

        def flat(theta, sde=sde, dw=dw):
            drift, diffuse = sde.at(0.0, SignSGDPoint(theta))
            return torch.cat([drift.theta, diffuse(dw).theta], 1)

        _, slope = torch.func.jvp(flat, (theta,), (way.expand(2, -1),))
        difference = (flat(theta + e * way) - flat(theta - e * way)) / (2 * e)
        torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-7)


# -- weak errors, exact: from one start the iteration lives on a lattice -----------------------------------------------


def lattice_moments(lr, steps, theta0, law, scale):
    """E theta and E theta^2 of SignSGD on f = theta^2 / 2 after some steps, by the exact chain of probabilities."""
    nodes = theta0 + lr * np.arange(-steps, steps + 1)
    down = law.sf(-nodes / scale)
    p = (np.arange(-steps, steps + 1) == 0).astype(float)
    for _ in range(steps):
        p = np.append((p * down)[1:], 0.0) + np.insert((p * (1 - down))[:-1], 0, 0.0)
    return np.array([p @ nodes, p @ nodes**2])


def test_where_noise_dominates_the_weak_order_is_one():
    """f = theta^2 / 2, Sigma = 1, sigma0 = 1: the SDE is an Ornstein–Uhlenbeck process."""
    theta0, end = 1.0, 1.0
    drift, matrix = coefficients(SignSGD(0.1).sde(Quadratic(1.0, 1.0, scale=10.0)), theta=[[theta0]])
    rate, square = -float(drift) / theta0, float(matrix) ** 2
    assert (rate, square) == pytest.approx((math.sqrt(2 / math.pi), 1.0))

    def error(h, rate=rate, law=None):
        exact = np.array([theta0 * math.exp(-rate * end)] * 2)
        exact[1] = exact[1] ** 2 + square / (2 * rate) * (1 - math.exp(-2 * rate * end))
        return lattice_moments(math.sqrt(h), round(end / h), theta0, law or stats.norm(), h**-0.5) - exact

    errors = np.array([error(4.0**-j) for j in (2, 3, 4, 5)])
    orders = np.log(errors[:-1] / errors[1:]) / math.log(4)
    assert np.all(np.abs(orders[-1] - 1) < 0.02), orders
    # The twins: another rate, and Student's t, whose density at 0 is not that of the normal, leave a plateau.
    student = LAWS[StudentT(5.0)]
    for wrong in ({"rate": 1.05 * rate}, {"law": student}):
        plateau = [error(4.0**-j, **wrong) for j in (4, 5)]
        assert np.all(plateau[1] / plateau[0] > 0.8)
    right = np.array([error(4.0**-j, rate=2 * student.pdf(0), law=student) for j in (4, 5)])
    assert np.all(np.abs(np.log(right[0] / right[1]) / math.log(4) - 1) < 0.1)


@pytest.mark.parametrize("law", [Gaussian(), StudentT(3.0)], ids=repr)
def test_at_fixed_noise_the_weak_order_is_one(law):
    """The mean of the SDE up to O(h) solves dtheta = drift dt: an error O(h) of the iteration against it says so."""
    theta0, end, scale = 1.5, 2.0, 1.0

    def limit(noise):
        sde = SignSGD(0.1, "fixed-noise").sde(Quadratic(1.0, 1.0, scale=scale, noise=noise))
        path = integrate.solve_ivp(
            lambda t, y: sde.at(t, SignSGDPoint(tensor([[float(y[0])]])))[0].theta[0].numpy(),
            (0, end), [theta0], method="DOP853", rtol=1e-11, atol=1e-12,
        )  # fmt: skip
        return path.y[0, -1]

    def errors(noise):
        final = limit(noise)
        steps = (64, 256, 1024)
        moments = [lattice_moments(end / n, n, theta0, LAWS[law], scale) for n in steps]
        return np.array(moments) - np.array([final, final**2])

    right = errors(law)
    assert np.all(np.abs(np.log(right[1] / right[2]) / math.log(4) - 1) < 0.03), right
    wrong = errors(StudentT(3.0) if isinstance(law, Gaussian) else Gaussian())
    assert np.all(wrong[2] / wrong[1] > 0.8)
    assert np.all(np.abs(wrong[2]) > 10 * np.abs(right[2]))


def test_verify_takes_a_sign_method_with_its_controls():
    """The controls have mean zero though a sign has no derivative. Power: 4 standard errors are 5 % of E theta^2."""
    method, oracle = SignSGD(0.25), Quadratic(1.0, 1.0, scale=4.0)
    job = {"theta0": [1.0], "steps": 8, "multipliers": (1, 2, 3), "refine": "noise", "budget": Budget(paths=16384)}
    report = verify(method, oracle, test_functions=["theta_0", "theta_0_squared"], **job)
    rate, chain = (
        math.sqrt(2 / math.pi),
        [lattice_moments(h**0.5, round(0.5 / h), 1.0, stats.norm(), h**-0.5) for h in report.h],
    )
    sde = [math.exp(-rate / 2), math.exp(-rate) + (1 - math.exp(-rate)) / (2 * rate)]
    assert np.all(np.abs(report.error - (np.array(chain) - sde).T) < 4 * report.sem + report.bias)
    assert report.sem.max() < 0.01
    wrong = [math.exp(-0.5), 1.0]  # the twin: a rate of 1
    assert np.any(np.abs(report.error - (np.array(chain) - wrong).T) > 4 * report.sem + report.bias)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_outcomes_are_the_two_signs_with_their_probabilities(sign):
    theta, method = sign * tensor([0.2, 0.8]), SignSGD(0.1)
    oracle = MultiplicativeNoise(1.5, scale=2.0, noise=ShiftedExponential())  # its S = theta
    values, weights = method.outcomes(oracle, theta)
    assert values.tolist() == [[-1.0, -1.0], [1.0, 1.0]]
    xi = torch.special.ndtri((torch.arange(100_000, dtype=F64) + 0.5) / 100_000)
    for column, at in enumerate(theta):
        g = oracle.sample(oracle.at(at.expand(len(xi), 1)), ShiftedExponential().map(xi)[:, None])
        assert float((g > 0).double().mean()) == pytest.approx(float(weights[1, column]), abs=2e-5)
    assert weights.sum(0).tolist() == [1.0, 1.0]


def test_without_noise_the_law_of_the_chain_is_the_lattices():
    student, theta0 = StudentT(3.0), 1.2
    job = {"theta0": [theta0], "multipliers": (1, 2, 3), "test_functions": ["theta_0", "theta_0_squared"]}
    budget = Budget(resolution=Resolution(points=(48,), euler=4))
    oracle = Quadratic(1.0, 1.0, scale=2.0)
    report = verify(SignSGD(0.25), oracle, steps=8, refine="noise", budget=budget, **job)
    assert report.estimator == "quadrature"
    exact = [lattice_moments(math.sqrt(h), round(0.5 / h), theta0, stats.norm(), 0.5 / math.sqrt(h)) for h in report.h]
    assert np.all(np.abs(report.chain - np.array(exact).T) <= sum(report.bounds.values()) + 1e-12)
    other = [lattice_moments(math.sqrt(h), round(0.5 / h), theta0, LAWS[student], 0.5 / math.sqrt(h)) for h in report.h]
    assert np.all(np.abs(report.chain - np.array(other).T).max(0) > 1e-3)  # the twin


def test_signum_at_a_fixed_beta_moves_as_its_page_says():
    """One level, h = 1/256, 20,000 paths: 4 standard errors are 3 % of E theta^2; independent signs would halve it."""
    beta, h = 0.6, 1 / 256
    rate = math.sqrt(2 / math.pi * (1 + beta) / (1 - beta))
    variance = 1 + 2 * sum(2 / math.pi * math.asin(beta**j) for j in range(1, 200))
    decay = math.exp(-2 * rate)
    method = Signum(math.sqrt(h), beta)
    found = simulate(
        method, Quadratic(1.0, 1.0, scale=h**-0.5), theta0=[1.0], steps=256, test_functions=["theta_0_squared"],
        paths=20_000, initial={"m": [0.0]}, rng=3,
    ).final["theta_0_squared"]  # fmt: skip
    allowed = 4 * found.sem + 4 * h  # m starts at rest: of order h
    assert abs(found.mean - (decay + variance / (2 * rate) * (1 - decay))) < allowed < 0.12
    assert abs(found.mean - (decay + 1 / (2 * rate) * (1 - decay))) > 5 * allowed


# -- refusals ----------------------------------------------------------------------------------------------------------


class Unknown(Noise):
    third, fourth = 0.0, 3.0

    def map(self, xi):
        return xi


@pytest.mark.parametrize("method", [SignSGD(0.1), Signum(0.1)])
def test_svag_is_refused_unless_the_noise_is_gaussian(method):
    job = {"theta0": [1.0], "steps": 4, "multipliers": (1, 2, 3)}
    for run in (verify, compare):
        with pytest.raises(ValueError, match=r"must not be 'svag' for Sig.* unless the noise is Gaussian: .*density"):
            run(method, Quadratic(1.0, 1.0, scale=1.0, noise="laplace"), **job)
    with pytest.raises(ValueError, match="`refine` must be 'step' under scaling='fixed-noise'"):
        verify(SignSGD(0.1, "fixed-noise"), Quadratic(1.0, 1.0, scale=1.0), **job)


@pytest.mark.parametrize(
    ("scaling", "oracle", "error", "message"),
    [
        ("batch-equivalent", Quadratic(1.0, 1.0, 1.0, "student-t"), NotDeclared, r"twice the density at 0"),
        ("batch-equivalent", Quadratic(1.0, 1.0, 0.0), ValueError, r"`scale` must be finite and positive; got 0.0"),
        ("fixed-noise", Quadratic(1.0, 1.0, 0.0), ValueError, r"`scale` must be finite and positive; got 0.0"),
        ("fixed-noise", Quadratic(1.0, 1.0, 1.0, TwoPoint()), NotDeclared, "TwoPoint does not declare `cdf`"),
        ("fixed-noise", Quadratic(1.0, 1.0, 1.0, Unknown()), NotDeclared, "Unknown does not declare `cdf`"),
        (
            "fixed-noise",
            FromFunctions(lambda x, y: ((x - y) ** 2).sum(), dim=1, data=torch.ones(9, 1, dtype=F64), batch_size=3),
            NotDeclared,
            "does not declare the law of its `noise`",
        ),
        (
            "fixed-noise",
            Quadratic(HESSIAN, COVARIANCE, 1.0, "laplace"),
            NotDeclared,
            r"Laplace\(\); got a root .* mixes",
        ),
        ("fixed-noise", Rippled(1.0, dim=17, noise="gaussian"), NotDeclared, "17 correlated signs .* needs dim <= 16"),
    ],
)
def test_sdes_that_are_not_known_are_refused(scaling, oracle, error, message):
    with pytest.raises(error, match=message):
        SignSGD(0.1, scaling).sde(oracle)


def test_many_dimensions_are_served_where_they_can_be():
    """Without correlation everywhere, and with it where it is constant and noise dominates."""
    dim = 40
    diagonal = Quadratic([1.0] * dim, [2.0] * dim, scale=1.0)
    both = (0.3 * np.ones((dim, dim)) + 0.7 * np.eye(dim)).tolist()
    theta = [np.linspace(-1, 1, dim).tolist()]
    for scaling in ("batch-equivalent", "fixed-noise"):
        _, matrix = coefficients(SignSGD(0.1, scaling).sde(diagonal), theta)
        assert torch.equal(matrix, torch.diag(matrix.diagonal()))
    _, matrix = coefficients(SignSGD(0.1).sde(Quadratic(np.eye(dim).tolist(), both, scale=1.0)), theta)
    second = matrix @ matrix.T
    assert second[0, 1:].tolist() == pytest.approx([2 / math.pi * math.asin(0.3)] * (dim - 1))
    assert second.diagonal().tolist() == pytest.approx([1.0] * dim)


def test_other_sdes_are_not_declared():
    oracle = Quadratic(1.0, 1.0, scale=1.0)
    with pytest.raises(NotDeclared, match="SignSGD has no SDE of order 2"):
        SignSGD(0.1).sde(oracle, order=2)
    with pytest.raises(NotDeclared, match=r"Signum has no SDE in \(theta, m\): .*speed of 1/sqrt\(h\)"):
        Signum(0.1).sde(oracle)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SignSGD(-1.0), r"`lr` must be finite and positive; got -1\.0"),
        (lambda: SignSGD(0.1, "fixed"), "`scaling` must be one of .*Did you mean 'fixed-noise'?"),
        (lambda: Signum(0.1, 1.2), r"`beta` must lie in \(0, 1\); got 1\.2"),
        (lambda: replace(SignSGD(0.1), lr=0.0), "`lr` must be finite and positive"),
        (lambda: SignSGD(0.1).rescaled(0.0), "`kappa` must be finite and positive"),
    ],
)
def test_errors_name_the_rule_and_the_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()
