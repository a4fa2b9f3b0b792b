r"""SVAG and M-SVAG of Balles and Hennig as torch optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sdeadapt.checks import check_open_unit, check_positive
from sdeadapt.methods.variance_adapted import shrinkage

__all__ = ["MomentumVarianceAdapted", "VarianceAdapted"]


class MomentumVarianceAdapted(Optimizer):
    r"""M-SVAG: momentum whose every component is shrunk by $\gamma = \hat m^2/(\hat m^2 + \rho\hat s)$.

    $\theta \leftarrow \theta - \eta\gamma\hat m$; $\rho\hat s$ estimates the variance of the corrected average
    $\hat m$. Iteration by iteration it equals `methods.MomentumVarianceAdapted`, which has the SDE.

    Args:
        params: parameters, or groups of them.
        lr: learning rate, positive.
        beta: of the averages of gradients and of squared gradients, in (0, 1).

    Raises:
        ValueError: if a hyper-parameter is out of range.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
        >>> optimizer = MomentumVarianceAdapted([weight], lr=0.1)
        >>> for _ in range(50):
        ...     optimizer.zero_grad()
        ...     weight.square().sum().backward()
        ...     loss = optimizer.step()
        >>> bool(weight.abs().max() < 0.1)
        True

    Balles, Hennig 2018 (arXiv 1705.07774), Algorithm 5.
    """

    momentum = True

    def __init__(self, params: Iterable[Any], lr: float = 0.1, beta: float = 0.9) -> None:
        super().__init__(params, {"lr": check_positive("lr", lr), "beta": check_open_unit("beta", beta)})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: computes the loss again, calls `backward` and returns the loss.

        Returns:
            What `closure` returned, or None.

        Raises:
            ValueError: if a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group["lr"], 1 - group["beta"])
        return loss

    def _move(self, parameter: Tensor, lr: float, weight: float) -> None:
        gradient, slots = parameter.grad, self.state[parameter]
        assert gradient is not None
        if gradient.is_sparse:
            raise ValueError(f"Gradients must be dense; got a sparse one of shape {tuple(gradient.shape)}.")
        if not slots:
            slots |= {"step": 0, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        slots["step"] += 1
        m = slots["exp_avg"].lerp_(gradient, weight)
        v = slots["exp_avg_sq"].lerp_(gradient * gradient, weight)
        factor, mean = shrinkage(m, v, weight, slots["step"], momentum=self.momentum)
        parameter.addcmul_(factor, mean if self.momentum else gradient, value=-lr)


class VarianceAdapted(MomentumVarianceAdapted):
    r"""SVAG of Balles and Hennig: every component of the gradient shrunk by $\gamma = \hat m^2/(\hat m^2 + \hat s)$.

    $\theta \leftarrow \theta - \eta\gamma g$; $\hat s$ estimates the variance of one gradient. Iteration by iteration
    it equals `methods.VarianceAdapted`. (`SVAG`, which amplifies the noise, is something else.)

    Args:
        params: parameters, or groups of them.
        lr: learning rate, positive.
        beta: of the averages of gradients and of squared gradients, in (0, 1).

    Raises:
        ValueError: if a hyper-parameter is out of range.

    Balles, Hennig 2018 (arXiv 1705.07774), Algorithm 4.
    """

    momentum = False
