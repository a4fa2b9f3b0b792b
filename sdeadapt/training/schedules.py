"""Learning-rate schedules for another number of steps."""

from __future__ import annotations

from collections.abc import Callable

from sdeadapt.checks import check_positive

__all__ = ["stretch"]


def stretch(schedule: Callable[[float], float], factor: float) -> Callable[[float], float]:
    r"""Return `schedule` for a run with `factor` times as many steps: step $k$ has the value at $k / \text{factor}$.

    So the learning rate stays the same function of SDE time (and of epochs): `factor` is r for SVAG, 1 / kappa for a
    batch `kappa` times as large.

    Args:
        schedule: step -> factor of lr, as for `torch.optim.lr_scheduler.LambdaLR`; called between whole steps, too.
        factor: new steps over old steps, positive.

    Returns:
        A plain function, which LambdaLR leaves out of its `state_dict`.

    Raises:
        ValueError: if `factor` is not positive.

    Example:
        >>> warm_up = lambda step: min(1.0, step / 10)
        >>> [stretch(warm_up, 4)(step) for step in (0, 4, 6, 40)]
        [0.0, 0.1, 0.15, 1.0]

    Malladi et al. 2022 (arXiv 2205.10287), Section 6.
    """
    check_positive("factor", factor)
    return lambda step: schedule(step / factor)
