"""The report of `verify` as text: what the user's own lr costs, the verdict, and what is behind it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np

from sdeadapt.statistics.estimate import Estimate
from sdeadapt.text import duration, percent, short, table
from sdeadapt.verification.decision import TargetTest
from sdeadapt.verification.report import WeakErrorReport
from sdeadapt.verification.self_reference import SelfReferenceReport
from sdeadapt.verification.weak_error import Prepared

__all__ = ["summarise", "summarise_plan"]

MOST_TARGETS = 12  # in the tables; further ones are in `rows`
_FAMILIES = {
    "svag": "SVAG: the user's own noise, amplified",
    "noise": "noise: the same law, rescaled",
    "step": "step: the oracle unchanged",
}
_RATE_LIMIT, _KURTOSIS_LIMIT, _SHARE_LIMIT, _CONTROL_LIMIT = 1 / 8, 100.0, 0.5, 6.0
_FEWEST_CHUNKS = 16  # below, a large share of one chunk means nothing


def summarise(report: WeakErrorReport) -> str:
    """Return the report as text of at most about 120 columns.

    In this order: the error at the user's own lr; the verdict; what is excluded; orders; all errors; diagnostics of the
    assumptions; what the study could have seen, if asked for.

    Args:
        report: what `verify` returned.
    """
    shown = _shown(report)
    parts = [
        _head(report),
        _own_error(report, shown),
        textwrap.fill(f"2. {report.verdict}. {report.message}", 118, subsequent_indent="   "),
        _limits(report, shown) if isinstance(report, SelfReferenceReport) else _excluded(report),
        _orders(report, shown),
        _errors(report, shown),
        _diagnostics(report),
    ]
    if report.power:
        parts.append(_power(report, shown))
    if report.local is not None:
        parts.append(f"{'7' if report.power else '6'}. Why: one-step moments\n{report.local.summary()}")
    return "\n\n".join(parts)


def _shown(report: WeakErrorReport) -> list[int]:
    """Return which targets the tables list: all, or the violated and the last ones."""
    every = list(range(len(report.tests)))
    first = sorted(every, key=lambda j: (report.tests[j].status != "violated", -j))
    return sorted(first[:MOST_TARGETS])


def _label(report: WeakErrorReport, j: int) -> str:
    return report.tests[j].label if len(np.unique(report.times)) > 1 else report.names[j]


def _measured(value: float, sem: float) -> str:
    """Return an estimate with its standard error; one at the level of round-off is none."""
    return repr(Estimate(value, sem if sem > 1e-9 * abs(value) else 0.0, 0))


def _factor(x: float) -> str:
    return f"{x:,.0f}" if x < 1e7 else f"{x:.1e}"


def _head(report: WeakErrorReport) -> str:
    config, sde = report.config, report.config["sde"]
    base = round(float(report.times[-1] / report.h[0]))
    claim = "its own SDE" if sde == "own" else f"the SDE {sde}" if isinstance(sde, str) else "the SDE given"
    question = f"has {claim} weak order {config['order']}?"
    if isinstance(report, SelfReferenceReport):
        question = f"do its means converge at order {config['order']} as lr falls? (without an SDE)"
    start = f", compared from t = {config['start'] * report.h[0]:.6g}" if config["start"] else ""
    family = _FAMILIES.get(config["refine"], config["refine"])
    return "\n".join(
        [
            f"{_name(config['method'])}({_settings(config['method'])})",
            f"on {_name(config['oracle'])}({_settings(config['oracle'])}):",
            question,
            f"  T = {report.times[-1]:.6g}, {base} steps of h = {report.h[0]:.6g}{start}",
            f"  family {family}; lr divided by {', '.join(map(str, config['multipliers']))}",
            *(
                [textwrap.fill(report.family, 114, initial_indent="  ", subsequent_indent="  ")]
                if report.family
                else []
            ),
            f"  {report.estimator} estimator, {_drawn(report)}",
        ]
    )


def _drawn(report: WeakErrorReport) -> str:
    if report.noise_free:
        return f"no random number, {duration(report.seconds)}; ± is half of a bound"
    return f"{report.total_paths:,} paths, {duration(report.seconds)}, seed {report.config['seed']}"


def _name(described: dict[str, Any]) -> str:
    return described.get("name", described["class"])


def _settings(described: dict[str, Any]) -> str:
    """Return the hyper-parameters that are numbers or words, each once."""
    plain = {
        k: v
        for k, v in described.items()
        if isinstance(v, int | float | str) and k not in ("class", "name") and not k.startswith("one_minus_")
    }
    return ", ".join(f"{k}={v:.6g}" if isinstance(v, float) else f"{k}={v}" for k, v in plain.items())


def _own_error(report: WeakErrorReport, shown: list[int]) -> str:
    """Return point 1: a sentence on the loss, or else on the target of the verdict, and the table of all."""
    own = report.error_at_own_lr
    target = report.decision.target
    judged = [j for j, t in enumerate(report.tests) if target and (t.name, t.time) == (target.name, target.time)]
    loss = [j for j, name in enumerate(report.names) if name == "loss"]
    first = (loss or judged or [0])[-1]
    where = f"lr = {report.lr:.6g}" if report.multipliers[0] == 1 else f"lr / {report.multipliers[0]}"
    relative, change = percent(own[first].relative), percent(own[first].of_change)
    alone = isinstance(report, SelfReferenceReport)
    says = "the method is off its own limit of" if alone else "the SDE misstates"
    lines = [
        f"1. At {where} {says} E {_label(report, first)} by {_measured(*own[first].error[:2])}",
        f"   ({relative} of it, {change} of its change over the horizon).",
    ]
    others = [j for j in shown if j != first]
    if others:
        rows = [
            [_label(report, j), _measured(*own[j].error[:2]), percent(own[j].relative), percent(own[j].of_change)]
            for j in others
        ]
        lines.append(table(["also", "error", "of it", "of its change"], rows, indent="   "))
    return "\n".join(lines)


def _excluded(report: WeakErrorReport) -> str:
    target, confidence = report.decision.target, report.config["confidence"]
    if target is None:
        return "3. Nothing is excluded: no target varies."
    share = percent(target.plateau_bound / target.scale)
    return (
        f"3. Any error of the SDE above {short(target.plateau_bound)} in E {target.label} is excluded "
        f"{'by the bound' if report.noise_free else f'at {confidence:.0%}'} ({share} of its size)."
    )


def _limits(report: SelfReferenceReport, shown: list[int]) -> str:
    """Return point 3 without an SDE: the extrapolated means."""
    rows = [
        [_label(report, j), _measured(limit.value.mean, limit.value.sem), short(limit.shift, 2)]
        for j, limit in enumerate(report.limits)
        if j in shown
    ]
    listed = table(["3. means extrapolated to h = 0", "limit", "from coarser levels: off by"], rows, indent="")
    return f"{listed}\n   a valid SDE has these means; that a given one does is not tested here"


def _interval(test: TargetTest) -> str:
    low, high = test.order_interval
    return f"{test.order:.2f} [{low:.2f}, {high:.2f}]"


def _orders(report: WeakErrorReport, shown: list[int]) -> str:
    """Return point 4: orders, slopes and plateaus, and below why a target is violated, unresolved or dropped."""
    slope, slope_sem = report.slope
    rows, why = [], dict[str, list[str]]()
    for j in shown:
        test, label = report.tests[j], _label(report, j)
        if test.status in ("violated", "unresolved", "dropped"):
            why.setdefault(f"{test.status}, {test.reason}", []).append(label)
        if test.status == "dropped":
            rows.append([label, *"------", test.status])
            continue
        rows.append(
            [
                label,
                _interval(test),
                " ".join(f"{order:.2f}" for order in test.coarse_orders),
                f"{slope[j]:.2f} ± {slope_sem[j]:.2f}",
                _measured(test.plateau, test.plateau_sem),
                short(test.allowed, 2),
                short(test.plateau_bound, 2),
                test.status,
            ]
        )
    finest = f"at {report.multipliers[-2]} to {report.multipliers[-1]}"
    header = ["4. orders", finest, "coarser", "slope (eye)", "plateau at h = 0", "allowed", "excluded", "status"]
    what = "a change that does not vanish" if isinstance(report, SelfReferenceReport) else "an error of the SDE"
    lines = [
        table(header, rows, indent=""),
        f"   a plateau above `allowed` speaks against the order; {what} above `excluded` is ruled out",
    ]
    lines += [
        textwrap.fill(f"{reason}: {', '.join(labels)}", 118, initial_indent="   ", subsequent_indent="     ")
        for reason, labels in why.items()
    ]
    if left := len(report.tests) - len(shown):
        lines.append(f"   and {left} more targets, in `report.tests`")
    return "\n".join(lines)


def _errors(report: WeakErrorReport, shown: list[int]) -> str:
    rows = []
    for j in shown:
        for i, multiplier in enumerate(report.multipliers):
            bound = float(report.bias[j, i] + 2 * report.bias_sem[j, i])
            rows.append(
                [
                    _label(report, j) if i == 0 else "",
                    f"{multiplier}",
                    short(float(report.h[i]), 4),
                    _measured(float(report.error[j, i]), float(report.sem[j, i])),
                    short(bound, 2),
                    _factor(float(report.factor[j, i])),
                    " + ".join(f"{n:,}" for n in report.paths[i]),
                ]
            )
    paths = "paths" if report.paths.shape[1] == 1 else "paths of each"
    if report.noise_free:
        return table(["weak errors", "divisor", "h", "e = chain - SDE", "bound"], [[*row[:4], short(2 * float(sem), 2)]
                     for row, sem in zip(rows, report.sem[shown].reshape(-1), strict=True)], indent="")  # fmt: skip
    kind, error = "weak errors", "e = chain - SDE"
    if isinstance(report, SelfReferenceReport):
        kind, error = "differences", "mean - the next finer's"
    return table([kind, "divisor", "h", error, "bias <", "var. reduction", paths], rows, indent="")


def _diagnostics(report: WeakErrorReport) -> str:
    found = report.diagnostics
    rates = {name.removeprefix("rate_"): x for name, x in found.items() if name.startswith("rate_")}
    lines = ["5. Assumptions"]
    if rates:
        listed = ", ".join(f"{name} {x:.2g}" for name, x in rates.items())
        lines.append(f"   relative change in one iteration at the coarsest level (want <= 1/8): {listed}")
    if "noise_to_signal_start" in found:
        lines.append(
            f"   noise to signal Tr(Sigma) sigma^2 / |grad f|^2: {found['noise_to_signal_start']:.3g} at the start, "
            f"{found['noise_to_signal_end']:.3g} at the end"
        )
    if report.noise_free:
        parts = ", ".join(f"{name} {short(float(part[:, -1].max()), 2)}" for name, part in report.bounds.items())
        lines.append(f"   bound at the finest level, by cause: {parts}")
        if report.estimator == "quadrature":
            lines.append(f"   mass outside the grid below {short(found['edge'], 2)}")
        return "\n".join([*lines, *(f"   WARNING: {warning}" for warning in _large_steps(rates))])
    kind = "paths' values" if isinstance(report, SelfReferenceReport) else "paths' differences"
    size = f"   {kind}: skewness up to {found['skewness']:.2g}, kurtosis up to {found['kurtosis']:.3g}"
    share = found["largest_chunk_share"]
    enough = _chunks(report) >= _FEWEST_CHUNKS
    lines.append(size + (f"; largest chunk's share of the variance {percent(share)}" if enough else ""))
    least = f"; least u {found['least_u']:.3g}" if math.isfinite(found["least_u"]) else ""
    lines.append(f"   largest z of a control variate's mean {found['control_z']:.1f}{least}")
    return "\n".join([*lines, *(f"   WARNING: {warning}" for warning in _warnings(report, rates))])


def _warnings(report: WeakErrorReport, rates: dict[str, float]) -> Iterator[str]:
    found = report.diagnostics
    if found["diverged"]:
        yield (
            f"{int(found['diverged']):,} paths diverged ({percent(found['diverged_fraction'])} of all), the first at "
            f"iteration {int(found['first_divergence'])}; every number is of the others."
        )
    yield from _large_steps(rates)
    if found["kurtosis"] > _KURTOSIS_LIMIT:
        yield f"kurtosis above {_KURTOSIS_LIMIT:.0f}: standard errors of so heavy tails may be too small."
    if found["largest_chunk_share"] > _SHARE_LIMIT and _chunks(report) >= _FEWEST_CHUNKS:
        yield "one chunk of paths makes most of the variance: rare large values decide; take more paths."
    if found["control_z"] > _CONTROL_LIMIT:
        yield "a control variate's mean is not zero: the oracle's gradient or covariance is not what its samples have."
    if found["least_u"] < 0:
        yield "u became negative and was clamped inside the root; use more `substeps`."


def _large_steps(rates: dict[str, float]) -> Iterator[str]:
    if coarse := [name for name, x in rates.items() if x > _RATE_LIMIT * (1 + 1e-6)]:
        yield f"the coarsest step is large for {', '.join(coarse)}; a smaller lr is safer."


def _chunks(report: WeakErrorReport) -> float:
    """Return the least number of chunks behind an estimate."""
    return float(report.paths.min()) / report.config["chunk"]


def _power(report: WeakErrorReport, shown: list[int]) -> str:
    """Return what each standard perturbation of the SDE would have left at h = 0: "*" where it would have been seen."""
    rows = []
    for j in shown:
        marks = [f"{short(spot.plateau[j], 2)}{'*' if spot.visible[j] else ' '}" for spot in report.power]
        rows.append([_label(report, j), *marks, short(report.tests[j].plateau_bound, 2)])
    names = [f"{spot.name.removesuffix(' +10 %')} " for spot in report.power]
    text = table(["6. an SDE 10 % off in", *names, "excluded"], rows, indent="")
    blind = [spot.name for spot in report.power if not spot.visible.any()]
    verdict = f"blind to: {', '.join(blind)}" if blind else "each would have been seen somewhere (*)"
    return f"{text}\n   {verdict}"


def summarise_plan(ready: Prepared) -> str:
    """Return a plan as text: paths and expected precision per level, cost and memory.

    Args:
        ready: a study after its pilot.
    """
    plan, study = ready.plan, ready.study
    rows = []
    for i, multiplier in enumerate(study.multipliers):
        level, paths = study.levels[i], plan.by_mode(i)
        steps = level.records[-1]
        share = float((plan.sem[:, i] / plan.expected[:, i]).max())
        rows.append(
            [
                f"{multiplier}",
                short(float(study.h[i]), 4),
                f"{steps:,}",
                " + ".join(f"{n:,}" for n in paths.values()),
                short(share, 2),
            ]
        )
    header = ["divisor", "h", "steps", f"paths ({' + '.join(plan.modes)})", "standard error / expected error"]
    return "\n".join(
        [
            table(header, rows, left=0, indent=""),
            f"{ready.estimator} estimator, {plan.path_steps:.3g} path-steps in all, {duration(plan.seconds)} of one "
            f"worker, {ready.memory / 2**20:.0f} MiB each ({ready.chunk:,} paths at a time). Nothing was written.",
        ]
    )
