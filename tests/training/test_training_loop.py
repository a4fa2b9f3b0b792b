"""A plain loop with Adam, warm-up and cosine decay on digits: the same at batch sizes B and 4B, by the rule only."""

import runpy
from pathlib import Path

import numpy as np

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "batch_size.py"
RUNS = 4
MARGIN = 0.25  # of the loss at B
T99 = 3.14  # Student's 99 % point, 2 · 4 − 2 degrees of freedom


def test_adam_with_warm_up_and_cosine_at_b_and_four_b():
    train = runpy.run_path(str(EXAMPLE))["train"]

    def losses(batch_size, first, **options):
        values = np.array([train(batch_size, seed, **options) for seed in range(first, first + RUNS)])
        return values.mean(), values.var(ddof=1) / RUNS

    (base, base_var), (own, own_var) = losses(2, 100), losses(8, 400)
    none, none_var = losses(8, 400, rule=lambda optimizer, kappa: None)
    # measured .176 ± .003, .195 ± .003, .355 ± .011: inside the margin by 5 of its errors, outside by 12
    assert abs(own - base) + T99 * np.sqrt(own_var + base_var) < MARGIN * base
    assert abs(none - base) - T99 * np.sqrt(none_var + base_var) > MARGIN * base
