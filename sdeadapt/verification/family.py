"""Which family of step sizes a study goes through, and what is true in it: the same words mean two theorems."""

from __future__ import annotations

from sdeadapt.methods.base import Method

__all__ = ["check_order", "family"]

_FIXED_SDE = (
    "the noise grows as the step falls, so that the SDE stays the same and its noise is O(1). Here the ODE without "
    "noise is wrong at h = 0, and an SDE of order 2 in the other family is of order 1 only"
)
_FIXED_NOISE = (
    "the noise stays as it is and the SDE changes with h: its noise is O(sqrt h). Here the ODE without noise is of "
    "order 1 too, and the second-order SDE is of order 2"
)


def family(method: Method, refine: object) -> str:
    """Return what distinguishes the family that `refine` leads through, in a sentence; "" for a function.

    Args:
        method: at the base step.
        refine: "svag", "noise", "step" or a function.
    """
    if refine == "step":
        return f"fixed noise (Li, Tai, E): {_FIXED_NOISE}"
    if refine not in ("svag", "noise"):
        return ""
    who = "Li, Malladi, Arora" if method.second_order == "step" else "Malladi et al."
    if method.second_order == "noise":
        return (
            f"fixed SDE ({who}): the noise grows as the step falls, so that the SDE stays the same. Its second-order "
            "SDE misses a third moment and is of order 2 for some test functions only"
        )
    return f"fixed SDE ({who}): {_FIXED_SDE}"


def check_order(method: Method, refine: object, order: int) -> None:
    """Refuse a claim of order 2 in the family where it is known to fail.

    Raises:
        ValueError: if the method's SDE of order 2 belongs to "step", and another `refine` is asked for.
    """
    if order > 1 and method.second_order == "step" and refine in ("svag", "noise"):
        raise ValueError(
            f"`refine` must be 'step' for order={order} of {type(method).__name__}; got {refine!r}. There the SDE is "
            "fixed and its noise O(1), and the second-order SDE is only of order 1: use verify(order=1, sde=...)."
        )
