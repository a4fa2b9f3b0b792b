import concurrent.futures
import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pytest
import torch

from sdeadapt.methods import SGD, Adam, ItoSDE, RMSprop
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.oracles.base import Local, NotDeclared, Oracle, Stream
from sdeadapt.oracles.finite_sum import LinearRegression
from sdeadapt.results import load
from sdeadapt.simulation.run import Run
from sdeadapt.verification import processes
from sdeadapt.verification.compare import compare
from sdeadapt.verification.decision import Verdict

A, S, START, STEPS = 1.5, 0.8, 2.0, 20  # curvature, scale * standard deviation of the noise, theta0, base steps
LINE = Quadratic([[A]], [[1.0]], scale=S)
PLANE = Quadratic([[1.0, 0.3], [0.3, 0.5]], [[1.0, 0.2], [0.2, 0.5]], scale=4.0)
LINE_FUNCTIONS = ("theta_0", "theta_0_squared")


def exact(process, lr, times):
    """Mean and variance of theta under SGD, SVAG(multiplier) or the SDE: all Gaussian, here."""
    if process == "SDE":
        return START * np.exp(-A * times), lr * S**2 * (1 - np.exp(-2 * A * times)) / (2 * A)
    r = 1 if process == "chain" else int(process[5:-1])
    step, steps = lr / r, np.round(times / lr) * r
    decay = 1 - step * A
    variance = step**2 * r * S**2 * (1 - decay ** (2 * steps)) / (1 - decay**2)
    return START * decay**steps, variance


@pytest.fixture(scope="module")
def line():
    return compare(SGD(lr=0.4), LINE, theta0=[START], steps=STEPS, times=10, test_functions=LINE_FUNCTIONS, paths=4000)


def test_every_process_has_its_exact_moments_at_every_time(line):
    assert line.processes == ("chain", "SVAG(2)", "SVAG(4)", "SDE")
    np.testing.assert_allclose(line.times, 0.8 * np.arange(1, 11))
    truth = {}
    for p, process in enumerate(line.processes):
        mean, variance = exact(process, 0.4, line.times)
        truth[process] = np.stack([mean, variance + mean**2], 1)
        bias = np.abs(line.bias[:, :2]) + 2 * line.bias_sem[:, :2] if process == "SDE" else 0
        excess = np.abs(line.mean[p, :, :2] - truth[process]) - bias
        assert (excess < 4.5 * line.sem[p, :, :2]).all(), process  # 80 comparisons
    # the twin that must fail: the chain's second moment is not the SDE's
    assert (np.abs(line.mean[0, :, 1] - truth["SDE"][:, 1]) > 4.5 * line.sem[0, :, 1]).any()


def test_quantiles_are_those_of_a_gaussian(line):
    z = np.array([NormalDist().inv_cdf(q) for q in line.quantile_levels])
    off = []
    for p, process in enumerate(line.processes):
        mean, variance = exact(process, 0.4, line.times)
        expected = mean + z[:, None] * np.sqrt(variance)
        sem = line.quantile_sem[p, :, :, 0]
        assert (np.abs(line.quantiles[p, :, :, 0] - expected) < 5 * sem + 0.02 * np.sqrt(variance)).all(), process
        off.append((line.quantiles[p, :, :, 0] - expected) / sem)
    assert np.std(off) == pytest.approx(1, abs=0.35)  # 120 correlated numbers: the standard errors are right
    density = NormalDist().pdf(0.0)
    expected = math.sqrt(0.25 / 4000) / density * np.sqrt(exact("chain", 0.4, line.times)[1])
    assert line.quantile_sem[0, 1, :, 0].mean() == pytest.approx(expected.mean(), rel=0.1)


def test_factor_is_the_exact_one(line):
    moments = [variance + mean**2 for mean, variance in (exact(p, 0.4, line.times) for p in ("chain", "SDE"))]
    ratio = moments[0] / moments[1]  # of |theta|^2, and of |gradient|^2, which is A^2 times that
    low, high = line.closeness.bounds
    assert low <= max(ratio.max(), (1 / ratio).max()) <= high
    assert line.metrics == ("theta_norm_squared", "gradient_norm_squared", "noise_trace")
    np.testing.assert_array_equal(line.closeness.ratio[:, 2], 1.0)
    np.testing.assert_allclose(line.closeness.ratio[:, 0], line.closeness.ratio[:, 1], rtol=1e-9)


@pytest.mark.parametrize(
    ("lr", "verdict", "said"),
    [
        (0.02, Verdict.CONFIRMED, "The chain is C-close to the SDE: E|θ|², E|∇f|², E Tr Σ agree within a factor of 1."),
        (0.9, Verdict.REFUTED, "The chain is not C-close to the SDE: the factor is"),
        (0.4, Verdict.INCONCLUSIVE, "The factor between chain and the SDE is"),
    ],
)
def test_verdict_of_closeness(lr, verdict, said):
    """At equilibrium the factor is 1 / (1 - lr A / 2): 1.015, 3.1, and 1.4, which is what is asked for."""
    steps = round(4 / (A * lr))
    report = compare(
        SGD(lr=lr), LINE, theta0=[0.0], steps=steps, times=[steps * lr], multipliers=(1,), paths=3000,
        closeness=math.sqrt(2) if lr != 0.4 else 1 / (1 - 0.2 * A), test_functions=["theta_0"],
    )  # fmt: skip
    assert report.verdict is verdict
    assert report.message.startswith(said)
    assert "asked for: 1.4" in report.message


class Point(NamedTuple):
    theta: torch.Tensor


def wrong(method, oracle):
    """The candidate without the diffusion: the gradient flow."""
    return ItoSDE(lambda t, x: (Point(-A * x.theta), lambda dw: Point(None)), 1, Point)


def test_a_wrong_candidate_is_far_in_law_and_the_right_one_is_not():
    found = [
        compare(SGD(lr=0.05), LINE, theta0=[0.0], steps=40, times=[1.0, 2.0], multipliers=(1,), sde=sde,
                test_functions=LINE_FUNCTIONS, paths=600).distances for sde in (None, wrong)
    ]  # fmt: skip
    right, flow = ([(d.estimate, d.p_value) for d in distances] for distances in found)
    assert all(abs(e) < 0.02 and p > 0.01 for e, p in right)  # fixed seeds
    assert all(e > 0.1 and p == 0.002 for e, p in flow)


def test_svag_approaches_the_sde_in_law():
    """RMSprop: E u of the chain is off by O(h), and u is random where the SDE's is not."""
    report = compare(RMSprop(lr=0.1, beta=0.99, eps=0.4), PLANE, theta0=[1.5, -1.0], steps=100, times=[1.0], paths=800)
    distance = {(d.process, d.reference): d for d in report.distances}
    assert list(distance) == [
        ("chain", "SDE"), ("SVAG(2)", "SDE"), ("SVAG(4)", "SDE"), ("SVAG(2)", "chain"), ("SVAG(4)", "chain")
    ]  # fmt: skip
    chain, finest = distance["chain", "SDE"], distance["SVAG(4)", "SDE"]
    assert chain.p_value == 0.002
    assert chain.estimate > 4 * chain.sem
    assert abs(finest.estimate) < chain.estimate / 3
    u = report.names.index("mean_u")
    off = [report.difference(p)[0][-1, u] for p in report.processes]
    assert off[0] > 2 * abs(off[1]) > 4 * abs(off[2])
    assert off[3] == 0


def small(**options):
    given = {"theta0": [1.5, -1.0], "steps": 4, "times": 2, "multipliers": (1, 2), "paths": 160, "keep_paths": 3}
    return compare(RMSprop(lr=0.1, beta=0.99, eps=0.4), PLANE, **(given | options))


def test_the_same_bits_whatever_the_executor_and_nothing_global_is_read():
    def bits(rng=0, executor=None):
        report = compare(
            SGD(lr=0.4), LINE, theta0=[START], steps=4, times=2, multipliers=(1, 2), sde=wrong, paths=160, rng=rng,
            run=Run(chunk=64, executor=executor),
        )  # fmt: skip
        return [report.mean, report.sem, report.quantiles, report.paths, report.bias, report.distances]

    before = torch.get_rng_state()
    plain = bits()
    torch.manual_seed(7)
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        pooled = bits(executor=executor)
    torch.set_rng_state(before)
    assert all(map(np.array_equal, plain, pooled))
    assert not np.array_equal(plain[0], bits(rng=1)[0])


def test_processes_have_paths_of_their_own():
    first = small(test_functions=["theta_0"]).paths[:, :, :, 0].reshape(3, -1)
    assert len(np.unique(first)) == first.size


def test_progress_counts_every_chunk():
    seen = []
    small(run=Run(chunk=64, progress=lambda done, total: seen.append((done, total))))
    assert seen == [(i, 9) for i in range(1, 10)]  # 3 processes of 3 chunks, the last of 32 paths


def test_report_comes_back_and_can_be_read(tmp_path):
    report = small()
    assert load(report.save(tmp_path / "run")) == report
    frame = report.to_dataframe()
    assert len(frame) == 3 * 2 * len(report.names)
    assert list(frame.columns) == ["process", "test_function", "time", "mean", "sem", "paths", "q0.05", "q0.5", "q0.95"]
    assert report.paths.shape == (3, 3, 2, len(report.names))
    text = report.summary()
    assert " ".join(text.split("\n\n")[0].split()) == f"{report.verdict}: {report.message}"
    for part in ("theta_0_squared", "SVAG(2) – chain", "chain / SDE", "p of equal laws", "mean at time 0.04"):
        assert part in text


def test_with_bias_correction_the_sde_takes_over_from_the_chain():
    report = compare(
        Adam(lr=0.1, beta1=0.9, beta2=0.99, eps=0.4), PLANE, theta0=[1.5, -1.0], steps=12, times=4, multipliers=(1,),
        test_functions=["mean_u", "theta_0"], paths=1000,
    )  # fmt: skip
    np.testing.assert_allclose(report.times, 0.01 * np.arange(9, 13))
    mean, sem = report.difference("chain")
    assert (np.abs(mean[0, :2]) < 5 * sem[0, :2] + 0.002).all()  # one step after: what one step can differ by
    assert report.mean[1, 0, 0] > 0.05  # begun at u = 0 it would have come to h (1 - beta2) / h * .75 = .0075
    assert report.sem[1, 0, 0] > 0.5 * report.sem[0, 0, 0]  # the chain's u is random, hence so is the SDE's start


EPOCHS = LinearRegression(
    torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64),
    torch.tensor([1.0, -1.0, 2.0, 0.0], dtype=torch.float64),
    batch_size=1,
    sampling="epoch",
)


def test_epochs_run_alone_and_are_not_refined():
    report = compare(SGD(lr=0.01), EPOCHS, theta0=[1.0], steps=8, times=2, paths=64)
    assert report.processes == ("chain",)
    assert report.reference == ""
    assert report.closeness is None
    assert report.distances == ()
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.message == (
        "The chain ran alone: there is nothing to compare it with. The draws of reshuffled epochs are not independent: "
        "no Ito SDE is known for them."
    )
    assert "mean at time 0.08" in report.summary()
    with pytest.raises(ValueError, match=r"`process` must be one of chain, with a reference; got 'chain'"):
        report.difference("chain")
    with pytest.raises(ValueError, match=r"`multipliers` must be \(1,\) over reshuffled epochs; got \(1, 2\)"):
        compare(SGD(lr=0.01), EPOCHS, theta0=[1.0], steps=8, multipliers=(1, 2))


def test_epochs_can_be_compared_with_a_candidate():
    sde = SGD(lr=0.01).sde(LinearRegression(EPOCHS.features, EPOCHS.targets, batch_size=1))
    report = compare(SGD(lr=0.01), EPOCHS, theta0=[1.0], steps=8, times=2, paths=64, sde=sde)
    assert report.processes == ("chain", "SDE")


class Normals(Stream):
    def __init__(self, generator, paths):
        self.generator, self.shape = generator, (paths, 1)

    def next(self, xi=None):
        return torch.randn(self.shape, generator=self.generator, dtype=torch.float64)


@dataclass(frozen=True)
class Samples(Oracle):
    """The gradient of theta^4 / 4 plus noise; it declares nothing."""

    scale: float = 1.0
    dim = 1
    noise_dim = 0

    def at(self, theta):
        return Local(self, theta)

    def stream(self, generator, paths):
        return Normals(generator, paths)

    def sample(self, local, draw):
        return local.theta**3 + self.scale * draw

    def to(self, device, dtype):
        return self


def test_an_oracle_that_only_samples_compares_its_chains():
    report = compare(RMSprop(lr=0.1, beta=0.9, eps=0.4), Samples(), theta0=[1.0], steps=8, times=2, paths=128)
    assert report.processes == ("chain", "SVAG(2)", "SVAG(4)")
    assert report.reference == "SVAG(4)"
    assert report.metrics == ("theta_norm_squared",)
    assert [(d.process, d.reference) for d in report.distances[::2]] == [
        ("chain", "SVAG(4)"), ("SVAG(2)", "SVAG(4)"), ("SVAG(2)", "chain")
    ]  # fmt: skip
    for part in (
        "There is no SDE here: Samples does not declare",
        "The chains start as torch starts them.",
        "The chains are compared with SVAG(4).",
    ):
        assert part in report.message
    with pytest.raises(NotDeclared, match="does not declare `gradient`"):
        compare(SGD(lr=0.1), Samples(), theta0=[1.0], steps=8, sde=lambda m, o: m.sde(LINE) and SGD(lr=0.1).sde(o))


def test_paths_that_diverge_are_counted_and_confirm_nothing():
    """From 3.1, lr 0.2 keeps theta^4 / 4 below its edge sqrt(10) unless the noise carries it over."""
    options = {"theta0": [3.1], "steps": 40, "times": 4, "multipliers": (1, 2), "paths": 256, "closeness": 1e6}
    report = compare(SGD(lr=0.2), Samples(), **options)
    assert 0 < report.diverged[0] < 256
    assert report.n[0] + report.diverged[0] == 256
    assert np.isfinite(report.mean).all()
    assert 1 <= report.first_divergence[0] <= 40
    assert report.verdict is Verdict.INCONCLUSIVE
    assert f"Paths diverged, {report.diverged[0]} of 256 (chain)" in report.message
    calm = compare(SGD(lr=0.2), Samples(scale=0.01), **options)  # the twin: nothing diverges, and it is confirmed
    assert calm.verdict is Verdict.CONFIRMED
    assert (calm.first_divergence == -1).all()
    with pytest.raises(FloatingPointError, match=r"At least 3 paths .* got 0 of 256 for chain"):
        compare(SGD(lr=0.2), Samples(), **(options | {"theta0": [6.0]}))


def test_other_refinements_carry_their_own_names():
    assert small(refine="noise").processes == ("chain", "chain(lr/2)", "SDE")
    with pytest.raises(ValueError, match=r"`refine` must divide the time step by r = 4; got 0.5 of it"):
        small(refine=lambda method, oracle, r: (method.rescaled(2 / r), oracle))


def test_values_beyond_memory_are_refused(monkeypatch):
    monkeypatch.setattr(processes, "run_chunks", None)  # before any path is run
    with pytest.raises(
        ValueError, match=r"must fit into 2 GiB; got 4\.77 GiB \(3 processes, 20,000,000 paths, 2 times"
    ):
        small(paths=20_000_000, test_functions=["theta_0"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": 63}, r"`paths` must be a whole number >= 64; got 63"),
        ({"keep_paths": -1}, r"`keep_paths` must be a whole number >= 0; got -1"),
        ({"closeness": 0.9}, r"`closeness` must be a finite factor C >= 1; got 0.9"),
        ({"confidence": 1.0}, r"`confidence` must lie in \(0, 1\); got 1.0"),
        ({"quantiles": (0.9, 0.1)}, r"`quantiles` must be increasing levels in \(0, 1\); got \(0.9, 0.1\)"),
        ({"quantiles": (0.0, 0.5)}, r"`quantiles` must lie in \(0, 1\); got 0.0"),
        ({"quantiles": ()}, r"`quantiles` must be increasing levels"),
        ({"multipliers": (2, 4)}, r"`multipliers` must increase from 1, the user's own chain; got \(2, 4\)"),
        ({"multipliers": (1, 4, 2)}, r"`multipliers` must increase from 1"),
        ({"substeps": 3}, r"`substeps` must be even"),
        ({"solver": "euler"}, r"`solver` must be one of"),
        ({"refine": "swag"}, r"`refine` must be one of .*Did you mean 'svag'"),
        ({"horizon": 1.0}, r"Exactly one of `horizon` \(SDE time\) and `steps`"),
        ({"test_functions": ["theta_9"]}, r"`theta_9` needs a coordinate below 2"),
        ({"rng": -1}, r"`rng` must be a whole number"),
    ],
)
def test_bad_arguments_are_refused_before_any_path_runs(options, message, monkeypatch):
    monkeypatch.setattr(processes, "run_chunks", None)
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_what_is_only_shown_is_in_the_means_and_in_nothing_else():
    given = {"theta0": [START], "steps": 4, "times": 2, "paths": 128, "test_functions": LINE_FUNCTIONS}
    plain = compare(SGD(lr=0.4), LINE, **given)
    found = compare(SGD(lr=0.4), LINE, shown={"positive": lambda x: (x.theta[:, 0] > 0).to(x.theta)}, **given)
    endless = compare(SGD(lr=0.4), LINE, shown={"log": lambda x: (x.theta[:, 0] - 1).clamp_min(0).log()}, **given)
    assert np.isinf(endless.mean[:, :, -1]).any()  # of many paths; none is left out for it
    np.testing.assert_array_equal(endless.mean[:, :, :-1], plain.mean)
    assert (endless.verdict, endless.n.tolist()) == (plain.verdict, plain.n.tolist())
    assert found.names == (*plain.names, "positive")
    np.testing.assert_array_equal(found.mean[:, :, :-1], plain.mean)
    assert ((found.mean[:, :, -1] > 0.5) & (found.mean[:, :, -1] <= 1)).all()
    assert found.distances == plain.distances
    assert (found.verdict, found.message) == (plain.verdict, plain.message)
    assert found.config["shown"] == ["positive"]
    with pytest.raises(ValueError, match=r"`shown` must not repeat a test function or a metric; got 'theta_0'\."):
        compare(SGD(lr=0.4), LINE, shown={"theta_0": lambda x: x.theta[:, 0]}, **given)
