"""`moments`: no random number, so that every comparison is to rounding.

The references know nothing of mean covariances: they enumerate the draws of `oracle.rule`, take the SDE's columns from
`sde.at`, and put the moments of (1, x) into one Kronecker matrix, to be multiplied out or exponentiated.
"""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from sdeadapt.methods import SGD, Adam, ItoSDE, Momentum, RMSprop
from sdeadapt.oracles.amplified import Amplified
from sdeadapt.oracles.analytic import MultiplicativeNoise, Quadratic, Rippled
from sdeadapt.oracles.base import Local, NotDeclared
from sdeadapt.oracles.finite_sum import LinearRegression, LogisticRegression
from sdeadapt.simulation.run import Run
from sdeadapt.verification.affine import Law, affine_flow, expectation
from sdeadapt.verification.exact_moments import exact_sde_means, moment_means, moments_apply
from sdeadapt.verification.study import Study

sys.path.append(str(Path(__file__).parents[1] / "convergence"))
import reference_moments

LOOKS = ["theta_0", "theta_0_squared", "projection_0_squared", "loss", "gradient_norm_squared"]
ROTATION = torch.linalg.qr(torch.tensor([[1.0, 2.0], [-0.5, 1.5]], dtype=torch.float64))[0]
HESSIAN, COVARIANCE = [[1.5, 0.4], [0.4, 0.6]], [[1.0, -0.5], [-0.5, 0.8]]


def study(method, oracle, theta0, horizon, **options):
    defaults = dict.fromkeys(("steps", "sde", "multipliers", "initial", "start", "times"))
    defaults |= {"refine": "svag", "order": 1, "solver": "extrapolated", "substeps": 4, "run": Run()}
    options = {"test_functions": LOOKS} | options
    return Study.build(method, oracle, theta0=theta0, horizon=horizon, **(defaults | options))


def weak_errors(found, own=True):
    assert moments_apply(found.levels, own) == ""
    means = [moment_means(level, own) for level in found.levels]
    return np.array([m.chain - m.sde for m in means]), means


def regression(sampling="replacement", batch_size=1, root="samples"):
    x = torch.tensor([[1.0, 0.3], [-0.4, 1.2], [0.8, -0.9], [0.1, 0.5]], dtype=torch.float64)
    y = torch.tensor([1.0, -0.5, 0.3, 0.8], dtype=torch.float64)
    return LinearRegression(x, y, batch_size, l2=0.1, sampling=sampling, root=root)


# -- references --------------------------------------------------------------------------------------------------------


def rows_of(point):
    return torch.cat(tuple(point), 1)


def point_of(kind, rows):
    return kind(*rows.split(rows.shape[1] // len(kind._fields), 1))


def affine_matrix(function, size):
    """(size + 1, size + 1), the matrix of (1, x) -> (0, function(x)), from unit vectors."""
    x = torch.cat([torch.zeros(1, size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)])
    values = function(x).numpy().astype(np.longdouble)
    matrix = np.zeros((size + 1, size + 1), np.longdouble)
    matrix[1:, 0], matrix[1:, 1:] = values[0], (values[1:] - values[0]).T
    return matrix


def chain_moments(level, stop, begin=None):
    """E zz^T of z = (1, point) after `stop` iterations: all draws enumerated, in extended precision."""
    method, oracle = level.method, level.oracle
    draws, weights = oracle.rule(3)
    state = method.from_point(level.initial, oracle.scale)
    size, dim = rows_of(state).shape[1], oracle.dim

    def draw(i):
        return tuple(d[i : i + 1] for d in draws) if isinstance(draws, tuple) else draws[i : i + 1]

    def step(x, i, k):
        g = torch.cat([oracle.sample(oracle.at(row[None, :dim]), draw(i)) for row in x])
        return rows_of(method.step(point_of(type(state), x), g, k))

    z = np.concatenate([np.ones((len(state.theta), 1)), rows_of(state).numpy()], 1).astype(np.longdouble)
    second = z.T @ z / len(z)
    unit = np.zeros((size + 1, size + 1))
    unit[0, 0] = 1
    for k in range(stop):
        if k == 0 or method.schedule is not None:
            maps = [affine_matrix(lambda x, i=i, k=k: step(x, i, k), size) + unit for i in range(len(weights))]
        second = sum(w * a @ second @ a.T for w, a in zip(weights.numpy(), maps, strict=True))
    unit = np.eye(size + 1)[:, 1:]  # the first row is the zero state, to which to_point is linear
    seen = rows_of(method.to_point(point_of(type(state), torch.as_tensor(unit)), oracle.scale)).numpy()
    seen = np.concatenate([np.eye(size + 1, 1), seen], 1).T
    return seen @ second @ seen.T


def sde_moments(level, second, begin, end):
    """E zz^T of z = (1, point) under an SDE that is affine and constant in time: a Kronecker exponential."""
    kind, size, columns = type(level.initial), len(second) - 1, level.sde.noise_dim

    def drift(x):
        return rows_of(level.sde.at(begin, point_of(kind, x))[0])

    def column(j):
        def kick(x):
            dw = torch.zeros(len(x), columns, dtype=torch.float64)
            dw[:, j] = 1
            parts = level.sde.at(begin, point_of(kind, x))[1](dw)
            return torch.cat([torch.zeros(len(x), level.oracle.dim).double() if p is None else p for p in parts], 1)

        return affine_matrix(kick, size)

    a, eye = affine_matrix(drift, size), np.eye(size + 1)
    generator = np.kron(a, eye) + np.kron(eye, a) + sum(np.kron(b, b) for b in map(column, range(columns)))
    return (expm(generator.astype(float) * (end - begin)) @ second.astype(float).ravel()).reshape(second.shape)


def means_of(level, second):
    """The test functions' means, which E zz^T gives: phi(x) = z^T B z with B from phi itself."""
    size = len(second) - 1
    found = []
    eye = torch.eye(size, dtype=torch.float64)
    pairs = torch.cat([(eye[i] + eye[j])[None] for i in range(size) for j in range(size)])

    def phi(x):
        return level.evaluate(point_of(type(level.initial), x)).numpy()

    zero, plus, minus = phi(torch.zeros(1, size).double())[0], phi(eye), phi(-eye)
    both = phi(pairs).reshape(size, size, -1)
    for f in range(len(zero)):
        b = np.zeros((size + 1, size + 1))
        b[0, 0], b[0, 1:] = zero[f], (plus[:, f] - minus[:, f]) / 2
        b[1:, 1:] = (both[..., f] - plus[:, None, f] - plus[None, :, f] + zero[f]) / 2
        found.append(np.sum(b * second))
    return np.array(found)


def check(found, own=True, tolerance=1e-13):
    """Compare chain, SDE and their difference with the references, at every level and time."""
    errors, means = weak_errors(found, own)
    for level, mean, error in zip(found.levels, means, errors, strict=True):
        times = [level.method.time(k) for k in level.records]
        first = chain_moments(level, level.start)
        chain = np.concatenate([means_of(level, chain_moments(level, k)) for k in level.records])
        sde = np.concatenate(
            [means_of(level, sde_moments(level, first, level.method.time(level.start), t)) for t in times]
        )
        np.testing.assert_allclose(mean.chain, chain, rtol=0, atol=tolerance)
        np.testing.assert_allclose(mean.sde, sde, rtol=0, atol=tolerance)
        assert np.all(np.abs(error) > 1e-5)  # what is compared to 1e-13 is no zero
    return means


# -- values ------------------------------------------------------------------------------------------------------------

PROBLEMS = {
    "quadratic": lambda: Quadratic(HESSIAN, COVARIANCE, 1.0, "two-point", [0.5, -1.0]),
    "multiplicative": lambda: MultiplicativeNoise([1.5, 0.5], ROTATION, 1.0, "two-point"),
    "replacement": regression,
    "batches of two": lambda: regression("batch", 2),
}


@pytest.mark.parametrize("refine", ["svag", "step"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_sgd_agrees_with_the_enumeration_of_all_draws(name, refine):
    found = study(SGD(lr=0.25), PROBLEMS[name](), [1.0, -2.0], 1.0, multipliers=(1, 2, 4), refine=refine, times=2)
    check(found)


@pytest.mark.parametrize("method", [Momentum(0.0625, 0.75, friction="langevin"), Momentum(0.05, 0.6, nesterov=True)])
@pytest.mark.parametrize("name", ["quadratic", "replacement"])
def test_momentum_agrees_too(name, method):
    found = study(method, PROBLEMS[name](), [1.0, -2.0], 4 * method.time_step, multipliers=(1, 2, 4), refine="step")
    check(found)


def test_sde_from_the_law_of_the_chain_and_from_several_rows():
    rows = [[1.0, -2.0], [0.5, 0.3], [-1.0, 0.0]]
    check(study(SGD(lr=0.25), regression(), rows, 1.0, multipliers=(1, 2, 4), start=0.5, times=[0.75, 1.0]))


def test_schedule_has_no_closed_form_but_a_solution():
    method = SGD(lr=0.125, schedule=lambda t: 1 / (1 + t))
    found = study(method, Quadratic(2.0, 3.0, 1.0), [1.5], 1.0, multipliers=(1, 2, 4), test_functions=LOOKS[:2])
    _, means = weak_errors(found)
    h0 = 0.125
    # s = log(1 + t): dtheta = -2 theta ds + noise of variance 3 h0 ds / (1 + t)
    mean = 1.5 * 2.0**-2
    variance = 3 * h0 * (2**-1 - 2.0**-4) / 3
    for level, m in zip(found.levels, means, strict=True):
        second = chain_moments(level, level.records[-1])
        np.testing.assert_allclose(m.sde, [mean, mean**2 + variance], rtol=0, atol=1e-12)
        np.testing.assert_allclose(m.chain, [second[0, 1], second[1, 1]], rtol=0, atol=1e-14)
        assert np.all(m.parts["integrator"] < 1e-10)
        assert np.all(np.abs(m.sde - [mean, mean**2 + variance]) <= m.parts["integrator"] + m.parts["rounding"])


def test_schedule_and_multiplicative_noise():
    method = SGD(lr=0.125, schedule=lambda t: 1 / (1 + t))
    oracle = MultiplicativeNoise([1.5], None, 1.0, "two-point")
    levels = study(method, oracle, [1.5], 1.0, test_functions=LOOKS[:2]).levels[1:2]
    assert moments_apply(levels, True) == ""
    means, second = moment_means(levels[0], True), chain_moments(levels[0], levels[0].records[-1])
    rate = -3 * math.log(2) + 0.125 * 0.5  # d E theta^2 = (-2 D / (1 + t) + h / (1 + t)^2) E theta^2 dt
    np.testing.assert_allclose(means.sde, [1.5 * 2**-1.5, 1.5**2 * math.exp(rate)], rtol=0, atol=1e-12)
    np.testing.assert_allclose(means.chain, [second[0, 1], second[1, 1]], rtol=0, atol=1e-14)


def test_bound_holds_after_many_iterations():
    """Against extended precision: theta' = theta (1 - h (D + sqrt(r) zeta)) after 4 r steps of h = 1 / (4 r)."""
    oracle = MultiplicativeNoise([1.5], None, 1.0, "two-point")
    found = study(SGD(lr=0.25), oracle, [1.5], 1.0, multipliers=(1, 8, 4096), test_functions=LOOKS[:2])
    for level, m in zip(found.levels, weak_errors(found)[1], strict=True):
        h, steps = np.longdouble(level.method.lr), level.records[-1]
        chain = [1.5 * (1 - 1.5 * h) ** steps, 1.5**2 * ((1 - 1.5 * h) ** 2 + h / 4) ** steps]
        sde = [1.5 * np.exp(np.longdouble(-1.5)), 1.5**2 * np.exp(np.longdouble(-3 + 0.25))]
        assert np.all(np.abs(m.chain - chain) + np.abs(m.sde - sde) <= m.parts["rounding"])
        assert np.all(m.parts["rounding"] < 2e-13)
        assert np.all(m.parts["integrator"] == 0)


def closed_forms(lam, x0, h, t, steps):
    """E f of SGD and of its SDEs of order 1 and 2 for Sigma = H^2, H = diag(lam): theory of Li, Tai and E's problem."""
    lam, x0 = np.array(lam), np.array(x0)
    one = np.sum(lam * x0**2 * np.exp(-2 * lam * t)) / 2 + h / 4 * np.sum(lam**2 * (1 - np.exp(-2 * lam * t)))
    rate = 2 * lam + h * lam**2
    two = np.sum(lam * x0**2 * np.exp(-rate * t)) / 2 + h / 2 * np.sum(lam**2 / (2 + h * lam) * -np.expm1(-rate * t))
    chain = np.sum(lam * x0**2 * (1 - h * lam) ** (2 * steps)) / 2
    return chain + np.sum(h * lam**2 / (2 - h * lam) * (1 - (1 - h * lam) ** (2 * steps))) / 2, one, two


@pytest.mark.parametrize("order", [1, 2])
def test_sgd_has_the_closed_forms_and_their_order(order):
    lam, x0 = [0.5, 1.0, 2.0], [1.0, -2.0, 1.5]
    oracle = Quadratic(lam, np.square(lam), 1.0)
    found = study(SGD(lr=2**-6), oracle, x0, 2.0, refine="step", order=order, multipliers=(1, 64, 128))
    errors, means = weak_errors(found)
    loss = LOOKS.index("loss")
    for level, mean in zip(found.levels, means, strict=True):
        chain, *sdes = closed_forms(lam, x0, level.method.lr, 2.0, level.records[-1])
        assert mean.chain[loss] == pytest.approx(chain, rel=1e-10)
        assert mean.sde[loss] == pytest.approx(sdes[order - 1], rel=1e-10)
    slopes = np.log2(errors[-2] / errors[-1])
    np.testing.assert_allclose(slopes, order, rtol=0, atol=0.01)


def test_wrong_noise_leaves_a_plateau():
    def louder(method, oracle):
        right = method.sde(oracle)

        def at(t, x):
            drift, diffuse = right.at(t, x)
            return drift, lambda dw: diffuse(1.3 * dw)

        return ItoSDE(at, right.noise_dim, right.point)

    found = study(SGD(lr=2**-4), regression(), [1.0, -2.0], 1.0, sde=louder, multipliers=(1, 64, 128))
    errors = weak_errors(found, own=False)[0]
    slopes = np.log2(np.abs(errors[-2] / errors[-1]))
    assert slopes[0] == pytest.approx(1, abs=0.01)  # the mean is blind to the noise
    assert np.all(np.abs(slopes[1:]) < 0.1)


def test_noise_of_its_own_is_averaged():
    """A diagonal covariance: neither constant nor the oracle's."""

    def diagonal(method, oracle):
        def at(t, x):
            here, size = oracle.at(x.theta), math.sqrt(method.lr) * oracle.scale
            return method.Point(-here.gradient), lambda dw: method.Point(size * here.covariance_diagonal.sqrt() * dw)

        return ItoSDE(at, oracle.dim, method.Point)

    def both(oracle):
        """Its means and those of the method's own SDE, at the first level."""
        options = {"theta0": [1.0, -2.0], "horizon": 1.0, "multipliers": (1, 2, 4)}
        other, own = (study(SGD(lr=0.125), oracle, **options, sde=sde).levels[:1] for sde in (diagonal, None))
        assert (moments_apply(other, False), moments_apply(own, True)) == ("", "")
        return moment_means(other[0], False), moment_means(own[0], True)

    mine, same = both(MultiplicativeNoise([1.5, 0.5], None, 1.0))  # its Sigma is diagonal: the same SDE
    np.testing.assert_allclose(mine.sde, same.sde, rtol=0, atol=1e-12)
    assert np.all(np.abs(mine.sde - same.sde) <= mine.parts["integrator"] + mine.parts["rounding"])
    other, own = both(regression())
    assert np.abs(other.sde - own.sde).max() > 1e-3


# -- exact means of SDEs whose chain is not linear ---------------------------------------------------------------------


def test_rmsprop_sde_means():
    method = RMSprop(lr=0.25, beta=1 - 0.0625, eps=0.4)
    oracle = Quadratic(1.2, 1.0, 4.0)
    found = study(
        method, oracle, [1.5], 1.0, initial={"u": 2.0}, test_functions=["theta_0", "theta_0_squared", "mean_u"]
    )
    mean, second = reference_moments.rmsprop([[1.2]][0][0], 1.0, 0.1, 1.0, 1.5, 2.0, 1.0)
    u = reference_moments.u_path(2.0, 1.0)(1.0)
    for level in found.levels:
        exact = exact_sde_means(level, True)
        np.testing.assert_allclose(exact, [mean[0], second[0, 0], u], rtol=0, atol=1e-10)
    assert moments_apply(found.levels, True) == "the step of RMSprop is not linear"


def test_adam_sde_means():
    method = Adam(lr=0.25, beta1=1 - 0.125, beta2=1 - 0.0625, eps=0.4, bias_correction=False)
    oracle, looks = Quadratic(1.2, 1.0, 4.0), ["theta_0", "theta_0_squared", "m_norm_squared"]
    options = {"initial": {"u": 2.0}, "test_functions": looks}
    level = study(method, oracle, [1.5], 1.0, **options).levels[0]
    mean, second = reference_moments.adam(1.2, 1.0, 0.1, 2.0, 1.0, [1.5, 0.0], 2.0, 1.0, bias_correction=False)
    np.testing.assert_allclose(exact_sde_means(level, True), [mean[0], second[0, 0], second[1, 1]], rtol=0, atol=1e-10)
    corrected = Adam(lr=0.25, beta1=1 - 0.125, beta2=1 - 0.0625, eps=0.4)
    assert exact_sde_means(study(corrected, oracle, [1.5], 1.0).levels[0], True) is None  # starts from the chain's law


# -- where it does not apply -------------------------------------------------------------------------------------------


def quartic(x):
    return x.theta[:, 0].square() + 1e-4 * x.theta[:, 1] ** 4


def bent(method, oracle):
    right = method.sde(oracle)

    def at(t, x):
        drift, diffuse = right.at(t, x)
        return method.Point(drift.theta - 1e-3 * torch.sin(x.theta)), diffuse

    return ItoSDE(at, right.noise_dim, right.point)


def wavy(method, oracle):
    right = method.sde(oracle)

    def at(t, x):
        drift, diffuse = right.at(t, x)
        return drift, lambda dw: method.Point(diffuse(dw).theta * (1 + 0.1 * torch.cos(x.theta)))

    return ItoSDE(at, right.noise_dim, right.point)


LABELS = torch.tensor([0, 1, 0, 1])
REFUSALS = {
    "test function 'cos' is not quadratic": {"test_functions": {"cos": lambda x: x.theta[:, 0].cos()}},
    "test function 'quartic' is not quadratic": {"test_functions": {"quartic": quartic}},
    "test function 'size' is not quadratic": {"test_functions": {"size": lambda x: x.theta[:, 0].abs()}},
    "the oracle does not declare a linear gradient": {"oracle": Rippled(1.0, 2)},
    "the oracle does not declare a linear": {"oracle": LogisticRegression(regression().features, LABELS, 2)},
    "the SDE's drift is not affine": {"sde": bent},
    "the covariance of the SDE's noise is not quadratic in theta": {"sde": wavy},
    "the step of RMSprop is not linear": {"method": RMSprop(0.25, 0.9)},
    "the run is not in float64": {"run": Run(dtype="float32")},
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_refuses_with_the_reason(reason):
    options = {"method": SGD(lr=0.25), "oracle": PROBLEMS["quadratic"]()} | REFUSALS[reason]
    found = study(options.pop("method"), options.pop("oracle"), [1.0, -2.0], 1.0, **options)
    assert moments_apply(found.levels, "sde" not in options).startswith(reason)
    if not reason.startswith("the step"):
        assert exact_sde_means(found.levels[0], "sde" not in options) is None


def test_a_quadratic_function_of_the_users_is_recognised():
    looks = {"mine": lambda x: (3 * x.theta[:, 0] - x.theta[:, 1] + 1) ** 2 - 7}
    found = study(
        SGD(lr=0.25), PROBLEMS["replacement"](), [1.0, -2.0], 1.0, test_functions=looks, multipliers=(1, 2, 4)
    )
    check(found)


# -- the pieces --------------------------------------------------------------------------------------------------------

DECLARED = [make() for make in PROBLEMS.values()] + [regression("batch", 2, "cholesky"), Amplified(regression(), 3)]


@pytest.mark.parametrize("oracle", DECLARED)
def test_mean_covariance_is_the_mean_of_the_covariance(oracle):
    mean = torch.tensor([0.7, -1.3], dtype=torch.float64)
    covariance = torch.tensor([[0.9, -0.3], [-0.3, 0.4]], dtype=torch.float64)

    def covariances(theta):
        columns = [oracle.at(theta).diffuse(e.expand(len(theta), -1)) for e in torch.eye(oracle.noise_dim).double()]
        root = torch.stack(columns, 2)
        return root @ root.mT

    expected = expectation(covariances, Law(mean, covariance))
    torch.testing.assert_close(oracle.mean_covariance(mean, covariance), expected, rtol=1e-13, atol=1e-13)
    assert not torch.allclose(covariances(mean[None])[0], expected) or oracle.additive


def test_oracles_without_it_say_so():
    with pytest.raises(NotDeclared, match="does not declare `mean_covariance`: its moments do not close"):
        Rippled(1.0, 2).mean_covariance(torch.zeros(2), torch.eye(2))


def test_flow_is_van_loans():
    a = torch.tensor([[-3.0, 1.0, 0.2], [0.5, -1.0, 0.0], [40.0, 0.0, -20.0]], dtype=torch.float64)
    q = torch.tensor([[1.0, 0.2, 0.0], [0.2, 0.5, 0.1], [0.0, 0.1, 2.0]], dtype=torch.float64)
    b, time = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), 0.7
    flow = affine_flow(a, b, q, time)
    block = expm(np.block([[-a.numpy(), q.numpy()], [np.zeros((3, 3)), a.numpy().T]]) * time)
    phi = expm(a.numpy() * time)
    np.testing.assert_allclose(flow.change.numpy() + np.eye(3), phi, rtol=0, atol=1e-13)
    np.testing.assert_allclose(flow.noise.numpy(), phi @ block[:3, 3:], rtol=0, atol=1e-9)  # the block is the worse one
    np.testing.assert_allclose(
        flow.shift.numpy(), np.linalg.solve(a, (phi - np.eye(3)) @ b.numpy()), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize(
    "oracle", [*DECLARED[:3], LogisticRegression(regression().features, LABELS, 2, l2=0.2, classes=3)]
)
def test_declared_hessian_products_are_the_derivatives(oracle):
    theta, v = torch.linspace(-1, 1, 4 * oracle.dim).double().reshape(2, 2, -1)
    here = oracle.at(theta)
    torch.testing.assert_close(here.hessian_product(v), Local.hessian_product(here, v), rtol=1e-13, atol=1e-13)
