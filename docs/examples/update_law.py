"""The law of an adaptive update, under a simple and under an exponential average of the squares."""

from sdeadapt.analysis.updates import update_bound, update_law, var_abs
from sdeadapt.analysis.updates_weighted import ema_law, kolmogorov

simple = update_law(10)  # a frozen distribution of scipy.stats: pdf, cdf, ppf, stats, rvs, ...
exact = ema_law(beta=0.9, t=10)  # the same with torch's average of the squares

print(f"simple average: variance {simple.var():.4f}, of the size {var_abs(10):.4f}")
print(f"exponential average: variance {exact.var():.4f}, distance between the laws {kolmogorov(exact, simple):.4f}")
print(f"95 % of the updates are below {exact.ppf(0.975):.3f} in size, and none is above {update_bound(0.9, 10):.3f}")
