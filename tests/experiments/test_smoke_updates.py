"""The experiments on the law of the update run; their counting of modes, and their intervals, are right."""

import matplotlib.image
import numpy as np
import pytest
from scipy import stats

from sdeadapt import load
from sdeadapt.analysis.updates import update_law
from sdeadapt.verification.decision import Verdict


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "figures"), [("update_law", 1), ("update_distribution", 1), ("update_distribution_of_networks", 3)]
)
def test_smoke(experiment, tmp_path, capsys, name, figures):
    assert experiment(name).main(["--out", str(tmp_path), "--smoke"]) == 0
    assert "Cost:" in capsys.readouterr().out
    pictures = list(tmp_path.rglob("*.png"))
    assert len(pictures) == figures
    assert all(matplotlib.image.imread(path)[..., :3].std() > 0.05 for path in pictures)  # none is blank
    if name == "update_distribution_of_networks":
        assert load(tmp_path / "trained").networks[-1] == "transformer"


def test_fewest_modes(experiment):
    count = experiment("update_distribution").fewest_modes

    def exactly(*values):
        return count(values, values)

    assert exactly(1, 2, 1) == exactly(3, 2, 1) == exactly(1, 2, 3) == exactly(2, 2, 2) == 1
    assert exactly(3, 1, 2) == exactly(1, 3, 1, 2, 0) == 2
    assert exactly(3, 1, 2, 1, 3) == 3
    wide = np.array([3, 1, 2, 1, 3])
    assert count(wide - 0.4, wide + 0.4) == 3
    assert count(wide - 0.6, wide + 0.6) == 2  # the middle one may not be there
    assert count(wide - 1.1, wide + 1.1) == 1


def test_modes_of_normal_and_cauchy_updates(experiment):
    """Bands from 100,000 draws prove three modes under Cauchy gradients, and never under normal ones."""
    shared = experiment("update_distribution")
    rng = np.random.default_rng(3)
    for case, m, modes in (("Cauchy", 5, 3), ("N(0, 1)", 2, 2), ("N(0, 1)", 10, 1)):
        *_, x = shared.updates(shared.CASES[case](rng, t, 100_000) for t in range(1, m + 1))
        counts = np.histogram(x, shared.grid(m))[0]
        assert shared.fewest_modes(*shared.bands(counts, len(x), 1000)) == modes
        assert (
            np.abs(np.searchsorted(np.sort(x), [-1.0, 0.5]) / len(x) - shared.EXACT[case](m).cdf([-1.0, 0.5])).max()
            < 0.009
        )
        exact = np.diff(shared.EXACT[case](m).cdf(shared.grid(m)))
        assert shared.fewest_modes(exact - 1e-9, exact + 1e-9) == modes


def test_moments_by_the_delta_method(experiment):
    """Against brute force over 400 samples of 2,000: the reach is z standard errors, within 15 %."""
    shared, x = experiment("update_distribution"), np.random.default_rng(0).exponential(size=(400, 2000))
    rows = []
    for sample in x:
        powers = np.stack([sample, sample**2, sample**3])
        rows.append(shared.shape([None, powers.sum(1), powers @ powers.T, 2000], 1.0))
    for name, value in (("mean", 1.0), ("variance", 1.0)):
        middle = np.array([np.mean(row[name]) for row in rows])
        reach = np.mean([row[name][1] - row[name][0] for row in rows]) / 2
        assert abs(middle.mean() - value) < 0.02
        assert reach == pytest.approx(middle.std(), rel=0.15)
    skewness = np.array([np.mean(row["skewness"]) for row in rows])
    np.testing.assert_allclose(skewness, stats.skew(x, axis=1), rtol=1e-9)


def test_distances_are_intervals_that_tell_laws_apart(experiment):
    shared = experiment("update_law")
    x = update_law(4).rvs(100_000, random_state=1)
    low, high = shared.distance(x, update_law(4), 1)
    assert low == 0
    assert high < 0.01
    low, high = shared.distance(x, update_law(6), 1)
    truth = np.abs(update_law(4).cdf(np.linspace(-2, 2, 999)) - update_law(6).cdf(np.linspace(-2, 2, 999))).max()
    assert 0 < low <= truth <= high


def test_a_wrong_claim_is_not_confirmed(experiment):
    shared = experiment("update_distribution")
    assert shared.modes_verdict({2: (2, 2)}, {2: 3}) is Verdict.REFUTED
    assert shared.modes_verdict({2: (1, 3)}, {2: 3}) is Verdict.INCONCLUSIVE  # the bands do not show it
    assert shared.modes_verdict({2: (3, 3)}, {2: 3}) is Verdict.CONFIRMED
