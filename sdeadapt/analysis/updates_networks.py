r"""The updates of real networks on handwritten digits over the first steps, against the law of `update_law`.

Every seed is a network of its own, initialised and fed independently of the others, so that means over seeds have
honest standard errors, however much the coordinates of one network depend on each other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdeadapt.analysis.updates import update_law, var_abs
from sdeadapt.analysis.updates_architectures import NETWORKS, on_digits, starts
from sdeadapt.analysis.updates_report import UpdateReport
from sdeadapt.analysis.updates_weighted import abs_moment, ema_law, updates
from sdeadapt.checks import check_choice, check_integer, check_open_unit, check_positive
from sdeadapt.oracles.network import Network
from sdeadapt.simulation.randomness import Purpose, SeedTree
from sdeadapt.simulation.run import Run, run_chunks

__all__ = ["network_updates"]

_BINS, _CHUNK, _MOST = 64, 16, 16  # bins of equal probability; copies in a chunk; networks in a study


@dataclass(frozen=True, eq=False)
class _Job:
    """One chunk of copies of one network: shares per bin and sizes, (copies, looks, bins + 4)."""

    makes: tuple[Callable[[], nn.Module], ...]
    oracles: tuple[Network, ...]
    chunks: int  # of each
    looks: tuple[int, ...]
    edges: np.ndarray
    beta: float | None
    lr: float
    layer: str | None
    seeds: SeedTree
    copies: int
    device: str
    dtype: torch.dtype

    def __call__(self, index: int) -> np.ndarray:
        level, chunk = divmod(index, self.chunks)
        make, oracle = self.makes[level], self.oracles[level]
        n = min(_CHUNK, self.copies - chunk * _CHUNK)
        own = [self.seeds.seed(Purpose.ENSEMBLE, level, chunk * _CHUNK + i) & (1 << 63) - 1 for i in range(n)]
        theta, columns = starts(make, own).to(self.device, self.dtype), _columns(oracle, self.layer)
        stream = oracle.stream(self.seeds.generator(Purpose.ENSEMBLE, _MOST + level, chunk, self.device), n)
        looked: list[Tensor] = []

        def gradients() -> Iterator[Tensor]:
            while True:  # at the theta of now: the loop below has moved it
                g = oracle.sample(oracle.at(theta), stream.next())
                if not bool(g.isfinite().all()):
                    raise FloatingPointError("A gradient of a network did not stay finite. Lower `lr`.")
                yield g

        for m, x in enumerate(updates(gradients(), self.beta), 1):
            if m in self.looks:
                looked.append(_measure(x[:, columns].contiguous(), torch.as_tensor(self.edges[len(looked)])))
            theta = theta - self.lr * x.nan_to_num(0.0, 0.0, 0.0)  # divided by 0: any eps would make it 0
            if m == self.looks[-1]:
                return torch.stack(looked, 1).cpu().numpy()
        raise AssertionError  # gradients do not end


def _columns(oracle: Network, layer: str | None) -> slice:
    """Return the columns of theta that hold one parameter, or all.

    Raises:
        ValueError: if there is none of that name; the message has those there are.
    """
    if layer is None:
        return slice(0, oracle.dim)
    k = oracle.names.index(check_choice("layer", layer, oracle.names))
    ends = np.cumsum([0, *(shape.numel() for shape in oracle.shapes)])
    return slice(int(ends[k]), int(ends[k + 1]))


def _measure(x: Tensor, edges: Tensor) -> Tensor:
    """Return shares per bin, E|X|, E X², the share of zeros and that of no update at all, (copies, bins + 4)."""
    moving = x.isfinite()  # else every square so far is 0
    count = moving.double().sum(1).clamp_min(1)
    bins = (
        torch.bucketize(x.double(), edges.to(x.device))
        + (len(edges) + 1) * torch.arange(len(x), device=x.device)[:, None]
    )
    counts = torch.bincount(bins[moving], minlength=len(x) * (len(edges) + 1)).view(len(x), -1)
    size = x.double().abs().nan_to_num(0.0, 0.0)
    moments = [size.sum(1) / count, size.square().sum(1) / count, (x == 0).sum(1) / count, 1 - moving.double().mean(1)]
    return torch.cat([counts / count[:, None], torch.stack(moments, 1)], 1)


def network_updates(
    networks: Iterable[str] | Mapping[str, Callable[[], nn.Module]] = ("mlp", "cnn", "transformer"),
    *,
    looks: Iterable[int] = (1, 2, 3, 5, 10, 20, 50),
    beta: float | None = None,
    lr: float = 1e-3,
    batch_size: int = 32,
    copies: int = 128,
    layer: str | None = None,
    tolerance: float = 0.05,
    confidence: float = 0.95,
    rng: int | np.random.SeedSequence = 0,
    run: Run = Run(),  # noqa: B008 (frozen)
) -> UpdateReport:
    r"""Compare the updates $X = g/\sqrt{\hat v}$ of networks, over all coordinates, with the law for normal gradients.

    Each network is trained from its own initialisation by $\theta \leftarrow \theta - \eta X$ (Adam without momentum
    and eps), on batches drawn with replacement. The law asks that the gradients of a coordinate are independent over
    steps, normal, of mean 0 and of constant variance. Whether they are is what is measured.

    Args:
        networks: names of `updates_architectures.NETWORKS`, or name -> function that returns a torch module for images
            (batch, 1, 8, 8) and ten classes.
        looks: steps m to look at, increasing, >= 1.
        beta: of the exponential average of the squares, in (0, 1); None for the simple average. Either has its own
            exact law.
        lr: eta, >= 0; 0 leaves the networks as initialised.
        batch_size: examples per step.
        copies: independent networks of each architecture, >= 8.
        layer: name of one parameter, of which all networks must have one; None for all.
        tolerance: distance of distribution functions up to which a network follows the law.
        confidence: of all distances at once, and of all variances at once.
        rng: a whole number or a SeedSequence; nothing global is read.
        run: where and how; the numbers do not depend on its executor.

    Returns:
        Distances and variances with intervals, and the steps at which each network leaves the law.

    Raises:
        ValueError: if an argument is wrong, before anything is run.
        FloatingPointError: if a network diverges.

    Example:
        >>> report = network_updates(["mlp"], looks=(1, 2), copies=8, batch_size=4)
        >>> report.looks.tolist(), report.distance.shape, report.leaves("mlp") in (None, 1, 2)
        ([1, 2], (1, 2), True)

    Zhang and Ziyin, Section 5, where a single trajectory is shown.
    """
    if not isinstance(networks, Mapping):
        networks = {name: NETWORKS[check_choice("networks", name, NETWORKS)] for name in networks}
    makes = dict(networks)
    if not 1 <= len(makes) <= _MOST:
        raise ValueError(f"`networks` must name 1 to {_MOST} different ones; got {list(makes)}.")
    steps = tuple(check_integer("looks", m) for m in looks)
    if not steps or any(a >= b for a, b in pairwise(steps)):
        raise ValueError(f"`looks` must increase; got {list(steps)}.")
    check_positive("lr", lr, zero=True)
    check_integer("batch_size", batch_size)
    check_integer("copies", copies, minimum=8)
    check_positive("tolerance", tolerance)
    check_open_unit("confidence", confidence)
    if beta is not None:
        check_open_unit("beta", beta)
    seeds, began = SeedTree.of(rng), time.perf_counter()
    oracles = tuple(on_digits(make, batch_size, run.torch_dtype, run.device) for make in makes.values())
    columns = [_columns(oracle, layer) for oracle in oracles]
    laws = [update_law(m) if beta is None else ema_law(beta, m) for m in steps]
    inner = np.arange(1, _BINS) / _BINS
    edges = np.array([update_law(m).ppf(inner) if m > 1 else 2 * inner - 1 for m in steps])
    chunks = math.ceil(copies / _CHUNK)
    job = _Job(
        tuple(makes.values()), oracles, chunks, steps, edges, beta, lr, layer, seeds, copies, run.device,
        run.torch_dtype,
    )  # fmt: skip
    parts = [*run_chunks(job, len(makes) * chunks, run)]
    values = np.stack([np.concatenate(parts[i * chunks : (i + 1) * chunks]) for i in range(len(makes))])
    shares, size, square = values[..., :_BINS], values[..., _BINS], values[..., _BINS + 1]
    config = {
        "networks": list(makes), "looks": list(steps), "beta": beta, "lr": lr, "batch_size": batch_size,
        "copies": copies, "layer": layer, "tolerance": tolerance, "confidence": confidence,
        "seed": rng if isinstance(rng, int) else str(rng), "device": run.device, "dtype": run.dtype, "chunk": _CHUNK,
    }  # fmt: skip
    return UpdateReport(
        config=config, seconds=time.perf_counter() - began, networks=tuple(makes),
        parameters=np.array([c.stop - c.start for c in columns]),
        looks=np.array(steps), edges=edges, law_cdf=np.array([law.cdf(e) for law, e in zip(laws, edges, strict=True)]),
        law_var_abs=np.array([_size_variance(law, m, beta) for law, m in zip(laws, steps, strict=True)]),
        share=shares.mean(1), share_sem=_sem(shares), cdf_sem=_sem(shares.cumsum(-1)[..., :-1]),
        var_abs=(square - size**2).mean(1), var_abs_sem=_sem(square - size**2),
        variance=square.mean(1), variance_sem=_sem(square),
        zeros=values[..., _BINS + 2].mean(1), silent=values[..., _BINS + 3].mean(1),
    )  # fmt: skip


def _sem(values: np.ndarray) -> np.ndarray:
    """Return the standard errors of means over copies, axis 1."""
    return values.std(1, ddof=1) / math.sqrt(values.shape[1])


def _size_variance(law: Any, m: int, beta: float | None) -> float:
    return float(var_abs(m)) if beta is None else abs_moment(law, 2) - abs_moment(law, 1) ** 2
