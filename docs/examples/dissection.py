"""Gradient or sign? What the best step along each gains in expectation, on one problem in two bases."""

import torch

from sdeadapt.analysis.dissection import diagonal_share, gradient_improvement, sign_improvement
from sdeadapt.oracles import Quadratic

curvatures = torch.cat([torch.linspace(0.05, 1.0, 18), torch.tensor([30.0, 60.0])]).double()
rotation = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(0)).double()).Q
theta = torch.ones(1, 20, dtype=torch.float64)

gains = {}
for basis, turn in (("axis-aligned", torch.eye(20).double()), ("rotated", rotation)):
    hessian = turn * curvatures @ turn.T
    oracle = Quadratic(hessian, hessian @ hessian, scale=0.1)  # a draw is the gradient at x ~ N(x*, .1²)
    gradient = oracle.at(theta @ turn.T).gradient
    covariance = oracle.scale**2 * oracle.covariance
    gains[basis] = [
        float(rule(gradient, hessian, covariance).decrease) for rule in (gradient_improvement, sign_improvement)
    ]
    print(
        f"{basis}: gradient {gains[basis][0]:.1f}, sign {gains[basis][1]:.1f}, diagonal {diagonal_share(hessian):.2f}"
    )
