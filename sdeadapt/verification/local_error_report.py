"""The report of `local_error`: one row per moment, and the power of h at which chain and SDE part."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sdeadapt.results import Saved, register
from sdeadapt.text import short, table
from sdeadapt.verification.decision import Verdict

__all__ = ["LocalErrorReport", "Moment", "judge"]

MOST_ROWS = 24  # in the summary's table
_MOST_NUMBERS = 4  # of a field of the point
_CLEAR = 16.0  # times what rounding and nodes may do: below, a difference has no power of h
_CONVERGED = 1e-10  # of the size of a moment: a rule of nodes that moves it by less has converged


class Moment(NamedTuple):
    """One moment at the smallest step where chain − SDE is more than rounding.

    power: of h in the difference, to a half; coefficient: of that power; status: "ok", "zero", "too low", "unclear".
    """

    moment: str
    chain: float
    sde: float
    difference: float
    h: float
    power: float
    needed: float
    coefficient: float
    status: str


@register("local-error", schema=1)
@dataclass(frozen=True, eq=False)
class LocalErrorReport(Saved):
    """One-step moments of chain and SDE in one point, and at which power of h they part.

    J moments, L levels (h decreasing). h (L,); degree, power, coefficient, at (J,); chain, sde (J, L). `at` is the
    level that a row of the table shows. `power` is as measured; infinite where the difference is rounding alone, NaN
    where it changes its sign.
    """

    config: dict[str, Any]
    seconds: float
    order: int
    h: np.ndarray
    moments: tuple[str, ...]
    degree: np.ndarray
    chain: np.ndarray
    sde: np.ndarray
    power: np.ndarray
    coefficient: np.ndarray
    at: np.ndarray
    status: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """REFUTED: a moment is wrong at too low a power; INCONCLUSIVE: one is unclear; CONFIRMED: all agree here."""
        if "too low" in self.status:
            return Verdict.REFUTED
        return Verdict.INCONCLUSIVE if "unclear" in self.status else Verdict.CONFIRMED

    @property
    def rows(self) -> Iterator[Moment]:
        """Every moment, those of few factors first."""
        for j in range(len(self.moments)):
            yield self._row(j)

    @property
    def offending(self) -> tuple[Moment, ...]:
        """The moments that are wrong at too low a power, the lowest first, then those of few factors."""
        wrong = [j for j, status in enumerate(self.status) if status == "too low"]
        return tuple(
            self._row(j) for j in sorted(wrong, key=lambda j: (_nearest(float(self.power[j])), int(self.degree[j])))
        )

    @property
    def message(self) -> str:
        """What is wrong, in a sentence or two."""
        moments, power = f"one-step moments of up to {2 * self.order + 1} factors", f"O(h^{self.order + 1})"
        needed = f"order {self.order} asks all {moments} to agree to {power}"
        wrong, unclear = self.offending, [row.moment for row in self.rows if row.status == "unclear"]
        if wrong:
            others = f" So are {len(wrong) - 1} more." if len(wrong) > 1 else ""
            return f"{_wrong(wrong[0])}; {needed}.{others}"
        if unclear:
            return (
                f"Of {', '.join(unclear[:3])}{' and others' if len(unclear) > 3 else ''} chain and SDE differ by no "
                f"clear power of h, or by less than the rule's nodes resolve; {needed}. Try another point."
            )
        return f"In this point all {len(self.moments)} {moments} agree to {power}, as order {self.order} asks."

    def summary(self) -> str:
        """Return the report as text: the sentence, the point, and the moments, wrong ones first."""
        config = self.config
        names = [config[what].get("name", config[what]["class"]) for what in ("method", "oracle")]
        point = ", ".join(f"{name} = {_numbers(value)}" for name, value in config["point"].items())
        family = f"Family {config['refine']}, h = {', '.join(f'{h:.3g}' for h in self.h)}."
        rows = [*self.offending, *(row for row in self.rows if row.status != "too low")]
        cells = [
            [row.moment, *_pair(row), f"{row.difference:.3g}", f"{row.h:.3g}", _power(row.power), f"{row.needed:g}",
             row.status]
            for row in rows[:MOST_ROWS]
        ]  # fmt: skip
        header = ["moment", "chain", "SDE", "difference", "at h", "power", "needed", "status"]
        lines = [
            textwrap.fill(f"{self.verdict}: {self.message}", 118),
            textwrap.fill(
                f"One iteration of {names[0]} on {names[1]} from {point} at t = {config['t']:.6g}. {family}",
                118,
                subsequent_indent="  ",
            ),
            table(header, cells, indent=""),
        ]
        if left := len(rows) - len(cells):
            lines[-1] += f"\nand {left} more, in `report.rows`"
        return "\n\n".join(lines)

    def _row(self, j: int) -> Moment:
        i = int(self.at[j])
        chain, sde = float(self.chain[j, i]), float(self.sde[j, i])
        return Moment(
            self.moments[j], chain, sde, chain - sde, float(self.h[i]), _nearest(float(self.power[j])),
            float(self.order + 1), float(self.coefficient[j]), self.status[j],
        )  # fmt: skip


def judge(
    h: np.ndarray, chain: np.ndarray, sde: np.ndarray, rounding: np.ndarray, nodes: np.ndarray, order: int
) -> dict[str, Any]:
    r"""Return power, coefficient, status and level shown of every moment.

    A level counts where the difference exceeds 16 times what rounding and nodes may do. The finest three such levels
    in a row give two readings of the power: the exponent between the last two, and its limit if corrections are of
    relative size $\sqrt h$. Both above order + 3/4 is "ok", both below "too low" (powers are whole or half). Near a
    change of sign the exponents rise, before it to infinity and after it to the power: where they rise by more than 1
    it is not "ok", and where the sign changes before the last two levels there is no limit, and no "too low". The
    rest is "unclear".

    Where at most the coarsest level counts it is "zero", if the rule of nodes has converged or what it leaves falls
    fast enough.

    Args:
        h: (L,), decreasing, of constant ratio.
        chain: (J, L), as are
        sde: those of the SDE,
        rounding: what rounding may do, and
        nodes: what other nodes change.
        order: p, the claim.
    """
    difference, ratio, enough = chain - sde, h[0] / h[1], order + 0.75
    power, coefficient = np.full(len(chain), np.inf), np.zeros(len(chain))
    at, status = np.zeros(len(chain), dtype=int), []
    clear = np.abs(difference) > _CLEAR * (rounding + nodes)
    converged = np.all(nodes[:, :2] <= _CONVERGED * rounding[:, :2] / np.finfo(float).eps, axis=1)
    left = np.abs(difference) + nodes
    falls = left[:, 1] * ratio**enough < left[:, 0]
    for j in range(len(chain)):
        end = int(np.flatnonzero(clear[j]).max(initial=0))
        if end == 0:
            status.append("zero" if falls[j] or converged[j] else "unclear")
            continue
        first = max(int(np.flatnonzero(~clear[j, :end]).max(initial=-1)) + 1, end - 2)
        d, steps = difference[j, first : end + 1], h[first : end + 1]
        with np.errstate(invalid="ignore"):
            exponents = np.log(d[:-1] / d[1:]) / np.log(ratio)  # NaN where the sign changes
        last, limit = (exponents[-1], _limit(exponents, ratio)) if len(exponents) else (np.nan, np.nan)
        if last > enough and not limit <= enough and not np.diff(exponents[-2:]).max(initial=0.0) > 1:
            status.append("ok")
        else:
            status.append("too low" if last < enough and limit < enough else "unclear")
        power[j], at[j] = last if np.isnan(limit) else limit, end
        if np.isfinite(power[j]):
            coefficient[j] = _limit(d / steps ** _nearest(power[j]), ratio)
    return {"power": power, "coefficient": coefficient, "at": at, "status": tuple(status)}


def _limit(values: np.ndarray, ratio: float) -> float:
    """Return the limit of a sequence at steps of this ratio, whose corrections fall as the root of the step."""
    if len(values) == 1:
        return float(values[0])
    return float(values[-1] + (values[-1] - values[-2]) / (np.sqrt(ratio) - 1))


def _nearest(power: float) -> float:
    """Return a power of h to a half."""
    return round(2 * power) / 2 if np.isfinite(power) else float(power)


def _power(power: float) -> str:
    return "-" if not np.isfinite(power) else f"{power:g}"


def _wrong(row: Moment) -> str:
    chain, sde = _pair(row)
    return (
        f"{row.moment} is wrong at h^{_power(row.power)}: chain {chain}, SDE {sde} at h = {row.h:.3g} "
        f"(difference {row.coefficient:.3g} h^{_power(row.power)})"
    )


def _pair(row: Moment) -> tuple[str, str]:
    """Return chain and SDE with the digits that tell them apart."""
    largest = max(abs(row.chain), abs(row.sde))
    apart = np.isfinite(row.difference) and row.difference != 0
    digits = 3 if not apart else int(np.clip(2 + np.ceil(np.log10(largest / abs(row.difference))), 3, 12))
    return short(row.chain, digits), short(row.sde, digits)


def _numbers(values: list[float]) -> str:
    text = ", ".join(f"{x:.4g}" for x in values[:_MOST_NUMBERS]) + (", …" if len(values) > _MOST_NUMBERS else "")
    return text if len(values) == 1 else f"({text})"
