"""Square roots of covariance matrices, one per path."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["CHOLESKY_DIM", "cholesky_root"]

CHOLESKY_DIM = 16  # up to here a root of Sigma(theta) is cheaper than one normal per example


def cholesky_root(covariance: Tensor) -> Tensor:
    r"""Return a lower triangular S with $S S^T = \Sigma$ for every path; $\Sigma$ may be singular.

    A pivot that is zero to rounding gives a zero column: that of a positive semi-definite matrix is zero as well.
    Out of place, so that `torch.func.jvp` sees through it; paths run innermost, which suits small matrices.

    Args:
        covariance: (paths, dim, dim), symmetric and positive semi-definite.

    Returns:
        (paths, dim, dim).

    >>> cholesky_root(torch.tensor([[[4.0, 2.0], [2.0, 1.0]]]))
    tensor([[[2., 0.],
             [1., 0.]]])
    """
    rest = covariance.permute(1, 2, 0).contiguous()
    dim = rest.shape[0]
    tolerance = 10 * dim * torch.finfo(rest.dtype).eps * rest.diagonal().T
    columns = []
    for j in range(dim):
        pivot = rest[0, 0]
        sound = pivot > tolerance[j]
        column = torch.where(sound, rest[0] * torch.where(sound, pivot, 1).rsqrt(), 0)
        columns.append(pad(column, (0, 0, j, 0)))
        rest = rest[1:, 1:] - column[1:, None] * column[None, 1:]
    return torch.stack(columns).permute(2, 1, 0).contiguous()
