"""A penalised oracle declares what its samples show, and leaves the noise alone."""

import pytest
import torch

from sdeadapt.oracles import Amplified, LinearRegression, Penalised, Quadratic, Rippled
from sdeadapt.oracles.base import Local
from sdeadapt.testing import OracleMismatch, check_oracle

F64 = torch.float64
THETA = torch.tensor([0.5, -0.3], dtype=F64)
X = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
HONEST = {
    "quadratic": Penalised(Quadratic([[1.0, 0.4], [0.4, 2.0]], [[2.0, -0.7], [-0.7, 0.5]], 0.5), 0.3),
    "rippled": Penalised(Rippled(0.5, 2), 0.3),
    "batches": Penalised(LinearRegression(X, X[:, 1] ** 2, 4), 0.3),
    "amplified": Amplified(Penalised(Rippled(0.5, 2), 0.3), 4),
}


@pytest.mark.parametrize("name", HONEST)
def test_declarations_and_samples_agree(name):
    assert check_oracle(HONEST[name], THETA, draws=2000).comparisons


class PenaltyInTheLossAlone(Penalised):
    def sample(self, local, draw):
        return self.oracle.sample(local.base, draw)


def test_a_penalty_that_samples_lack_is_seen():
    with pytest.raises(OracleMismatch, match="gradient"):
        check_oracle(PenaltyInTheLossAlone(Rippled(0.5, 2), 0.3), THETA)


def test_second_and_third_derivatives():
    oracle = Penalised(Rippled(0.5, 2), 0.3)
    local = oracle.at(THETA[None])
    v = torch.tensor([[1.0, 2.0]], dtype=F64)
    torch.testing.assert_close(local.hessian_product(v), Local.hessian_product(local, v))
    torch.testing.assert_close(local.third_contraction(v), Local.third_contraction(local, v))
    torch.testing.assert_close(local.hessian_product(v), v @ oracle.hessian(THETA[None]))


def test_the_batch_size_leaves_the_penalty():
    oracle = HONEST["batches"]
    assert oracle.rescaled(4.0).weight_decay == oracle.with_batch(16).weight_decay == 0.3
    assert oracle.rescaled(4.0).scale == oracle.scale / 2
    assert oracle.with_batch(16).scale == oracle.scale / 2
    assert oracle.to("cpu", torch.float32).dtype == torch.float32
    assert oracle.describe()["oracle"]["class"] == "LinearRegression"
