"""A small study that runs in about a second, for tests of what is made of a report."""

from sdeadapt.methods import RMSprop
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.verification.planning import Budget
from sdeadapt.verification.report import WeakErrorReport
from sdeadapt.verification.weak_error import verify


def small_report(**options) -> WeakErrorReport:
    """Return the report of the standard test in one dimension over two base steps."""
    asked = {"steps": 2, "multipliers": (1, 2, 4), "initial": {"u": [2.0]}, "budget": Budget(paths=512),
             "estimator": "independent"} | options  # fmt: skip
    oracle = Quadratic([[1.0]], [[1.0]], scale=4.0)
    return verify(RMSprop(lr=0.25, beta=0.9375, eps=0.4), oracle, theta0=[1.5], **asked)
