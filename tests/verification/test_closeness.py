import math
from functools import partial

import numpy as np
import pytest

from sdeadapt.statistics.intervals import critical_value, max_t_quantile
from sdeadapt.verification import closeness as module
from sdeadapt.verification.closeness import closeness
from sdeadapt.verification.decision import Verdict

COLUMNS = 20
MIX = np.sqrt(0.7) * np.ones((1, COLUMNS)), np.sqrt(0.3) * np.eye(COLUMNS)
REPLICATES = 200


def ensemble(rng, n, factor=1.0):
    """Squares of strongly correlated normals, of mean `factor`: (n, 10, 2)."""
    z = rng.standard_normal((n, 1)) @ MIX[0] + rng.standard_normal((n, COLUMNS)) @ MIX[1]
    return factor * (z**2).reshape(n, 10, 2)


def misses():
    """How often one of the 20 true ratios, all 1.2, lies outside its bounds."""
    rng = np.random.default_rng(0)
    found = (closeness(ensemble(rng, 500, 1.2), ensemble(rng, 700)) for _ in range(REPLICATES))
    return np.mean([((f.low > 1.2) | (f.high < 1.2)).any() for f in found])


def test_bounds_hold_together(monkeypatch):
    monkeypatch.setattr(module, "max_t_quantile", partial(max_t_quantile, draws=500))  # to be quick
    assert misses() < 0.05 + 4 * math.sqrt(
        0.05 * 0.95 / REPLICATES
    )  # 5 % ± 1.5 % if exact; measured 4 %, and 44 % below


def test_bounds_made_one_at_a_time_do_not(monkeypatch):
    """The negative control: the test above can fail."""
    monkeypatch.setattr(module, "_critical", lambda *_: critical_value(0.95))
    assert misses() > 0.05 + 4 * math.sqrt(0.05 * 0.95 / REPLICATES)


def test_correlation_is_used_and_bonferroni_is_the_worst_case():
    rng = np.random.default_rng(1)
    z = closeness(ensemble(rng, 1000), ensemble(rng, 1000)).critical
    assert critical_value(0.95) < z < 0.97 * critical_value(0.95, COLUMNS)
    few = closeness(ensemble(rng, 63), ensemble(rng, 1000))
    assert few.critical == critical_value(0.95, COLUMNS)


@pytest.mark.parametrize(
    ("factor", "threshold", "verdict"),
    [
        (1.1, 1.5, Verdict.CONFIRMED),
        (2.0, 1.5, Verdict.REFUTED),
        (0.5, 1.5, Verdict.REFUTED),
        (1.5, 1.5, Verdict.INCONCLUSIVE),
        (1.0, 1.0, Verdict.INCONCLUSIVE),
    ],
)
def test_verdict_compares_the_bounds_with_what_is_asked(factor, threshold, verdict):
    rng = np.random.default_rng(2)
    found = closeness(ensemble(rng, 4000, factor), ensemble(rng, 4000), threshold=threshold)
    assert found.verdict is verdict
    low, high = found.bounds
    assert 1 <= low <= found.factor <= high
    assert found.factors[found.worst] == found.factor


def test_rule_of_thumb_is_right_about_the_error():
    """A ratio of two means with relative errors s and s has the log ratio's error s √2 (delta method)."""
    rng = np.random.default_rng(3)
    x, y = ensemble(rng, 40_000), ensemble(rng, 40_000)
    found = closeness(x, y)
    s = np.hypot(x.std(0) / x.mean(0), y.std(0) / y.mean(0)) / 200
    np.testing.assert_allclose(np.log(found.high / found.low), 2 * found.critical * s, rtol=0.02)


def test_bias_of_the_solver_widens_the_bounds():
    rng = np.random.default_rng(4)
    x, y = ensemble(rng, 1000), ensemble(rng, 1000)
    plain, wide = closeness(x, y), closeness(x, y, bias=np.full((10, 2), 0.1))
    assert (wide.low < plain.low - 0.05).all()
    assert (wide.high > plain.high + 0.05).all()
    np.testing.assert_array_equal(wide.ratio, plain.ratio)


def test_a_constant_metric_takes_no_part_and_zero_equals_zero():
    rng = np.random.default_rng(5)
    x, y = ensemble(rng, 500), ensemble(rng, 500)
    flat = np.full((500, 10, 1), 3.0)
    with_flat = closeness(np.concatenate([x, flat], 2), np.concatenate([y, flat], 2))
    assert with_flat.critical == pytest.approx(closeness(x, y).critical, abs=1e-12)
    np.testing.assert_allclose([with_flat.low[:, 2], with_flat.ratio[:, 2], with_flat.high[:, 2]], 1.0, rtol=1e-12)
    nothing = closeness(np.zeros((100, 1, 1)), np.zeros((100, 1, 1)))
    assert nothing.bounds == (1.0, 1.0)
    something = closeness(np.ones((100, 1, 1)), np.zeros((100, 1, 1)))
    assert something.verdict is not Verdict.CONFIRMED
