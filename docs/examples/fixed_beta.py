"""Adam at fixed beta does not rest at the minimum where the noise is skewed."""

from sdeadapt import Adam
from sdeadapt.analysis.adam_field import adam_field
from sdeadapt.oracles.analytic import Quadratic

method = Adam(lr=0.01, beta1=0.5, beta2=0.8, eps=0.0)
for noise in ("gaussian", "exponential"):
    oracle = Quadratic(hessian=1.0, covariance=1.0, scale=1.0, noise=noise)
    for theta in (0.0, 0.1):
        field = adam_field(method, oracle, [theta], samples=4096)
        print(f"{noise}, theta = {theta}: F = {field.estimate()!r}, truncation below {field.truncation[0]:.0e}")
