"""Path-steps per second of our Euler beside torchsde's, and of two worker processes beside one, in one run.

All sides solve the same SDE object (SGD's and RMSprop's on a quadratic with a full covariance, d = 8, float32) with the
same paths and steps; repeats are interleaved and medians compared. On a CPU one thread is used and its processor time
counted, so that other programs hardly disturb the ratios; workers are timed by the clock, and need two free cores.

    python benchmarks/throughput.py --out throughput.json
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torchsde
from torch import Tensor

from sdeadapt.methods import SGD, ItoSDE, RMSprop
from sdeadapt.oracles.analytic import Quadratic
from sdeadapt.simulation.ensemble import solve
from sdeadapt.simulation.run import Run, workers
from sdeadapt.simulation.solvers import draw_increments, solver
from sdeadapt.simulation.torchsde_bridge import to_torchsde

DIM, SUBSTEPS = 8, 4
TARGETS = {"ours / torchsde": 3.0, "ours / torchsde, sequential": 1.0, "two workers / one": 1.4}


METHODS = {"SGD": SGD(lr=0.1), "RMSprop": RMSprop(lr=0.1, beta=0.95)}


def make_sde(method: str, device: str) -> ItoSDE:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(DIM, DIM, generator=generator)
    hessian, covariance = torch.linspace(0.5, 2.0, DIM), root @ root.T / DIM + torch.eye(DIM) / 2
    oracle = Quadratic(hessian, covariance, scale=2.0).to(device, torch.float32)
    return METHODS[method].sde(oracle)


class Sequential:
    """A Brownian motion asked for in order, in torchsde's protocol: the least that it can cost."""

    levy_area_approximation = "none"

    def __init__(self, paths: int, device: str) -> None:
        self.shape, self.generator = (paths, DIM), torch.Generator(device).manual_seed(0)

    def __call__(self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False) -> Tensor:
        """Return the next increment."""
        normals = torch.randn(self.shape, generator=self.generator, device=self.generator.device)
        return normals.mul_(math.sqrt(tb - ta))


def solvers(method: str, paths: int, steps: int, device: str) -> dict[str, Callable[[], object]]:
    """Return the sides, each of `steps` Euler steps; a power of two, where torchsde's clock makes as many."""
    sde, dt = make_sde(method, device), 1 / steps
    start = sde.point(*torch.ones(len(sde.point._fields), paths, DIM, device=device))
    joined, theirs, ts = torch.cat(start, 1), to_torchsde(sde, DIM), torch.tensor([0.0, 1.0])
    advance, _ = solver("euler")
    buffer = torch.empty(SUBSTEPS, paths, DIM, device=device)

    def ours() -> None:
        generator, x = torch.Generator(device).manual_seed(0), start
        for k in range(0, steps, SUBSTEPS):
            fresh = draw_increments(generator, SUBSTEPS, dt, paths, DIM, torch.float32)
            x = advance(sde, k * dt, x, fresh)

    def interval() -> None:
        bm = torchsde.BrownianInterval(0.0, 1.0, size=(paths, DIM), dtype=torch.float32, device=device, entropy=0)
        torchsde.sdeint(theirs, joined, ts, bm=bm, method="euler", dt=dt)

    def sequential() -> None:
        torchsde.sdeint(theirs, joined, ts, bm=Sequential(paths, device), method="euler", dt=dt)

    def noise() -> None:
        generator = torch.Generator(device).manual_seed(0)
        for _ in range(0, steps, SUBSTEPS):
            buffer.normal_(generator=generator)

    return {"ours": ours, "torchsde": interval, "torchsde, sequential": sequential, "noise alone": noise}


def rates(
    sides: dict[str, Callable[[], object]], path_steps: int, repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Return path-steps per second, the median of interleaved repeats after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, side in sides.items():
            begin = clock()
            side()
            seconds[name].append(clock() - begin)
    return {name: path_steps / statistics.median(found[1:]) for name, found in seconds.items()}


def synchronised() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def one_device(method: str, device: str, paths: int, steps: int, repeats: int) -> dict[str, float]:
    clock = time.process_time if device == "cpu" else synchronised
    with torch.no_grad():
        found = rates(solvers(method, paths, steps, device), paths * steps, repeats, clock)
    ours = found["ours"]
    ratios = {f"ours / {name}": ours / found[name] for name in ("torchsde", "torchsde, sequential")}
    return {**found, **ratios, "share of the noise-filling rate": ours / found["noise alone"]}


def scaling(paths: int, steps: int, repeats: int) -> dict[str, float]:
    """Return the rates of `solve` in one and in two workers, which are warm."""
    sde, start = make_sde("RMSprop", "cpu"), {"theta": [1.0] * DIM, "u": [1.0] * DIM}
    with workers(1) as one, workers(2) as two:

        def side(executor) -> Callable[[], object]:
            run = Run(dtype="float32", executor=executor)
            return lambda: solve(
                sde,
                initial=start,
                horizon=1.0,
                step=1 / steps,
                solver="euler",
                paths=paths,
                run=run,
                test_functions=["theta_0"],
            )

        found = rates({"one worker": side(one), "two workers": side(two)}, paths * steps, repeats, time.perf_counter)
    return {**found, "two workers / one": found["two workers"] / found["one worker"]}


def show(title: str, rows: dict[str, float]) -> None:
    print(title)
    for name, value in rows.items():
        ratio = " / " in name or name.startswith("share")
        target = f"   (target {TARGETS[name]:g})" if name in TARGETS else ""
        print(f"  {name:34s} {f'{value:.2f}' if ratio else f'{value / 1e6:.2f} M path-steps/s':>22s}{target}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="file for the numbers, JSON")
    parser.add_argument("--smoke", action="store_true", help="a small run, to see that it runs")
    options = parser.parse_args(argv)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        paths, lengths = (256, {16: 1}) if options.smoke else (4096, {128: 9, 1024: 3})  # steps: repeats
        results = {}
        for device, chunk in {"cpu": paths, "cuda": 64 * paths}.items():
            if device == "cuda" and not torch.cuda.is_available():
                continue
            for method in METHODS:
                for steps, repeats in lengths.items():
                    name = f"{device}, {method}, {chunk} paths, {steps} steps"
                    results[name] = one_device(method, device, chunk, steps, repeats)
        results["workers, RMSprop"] = scaling(8 * paths, *next(iter(lengths.items())))
    finally:
        torch.set_num_threads(threads)
    versions = {"torch": torch.__version__, "torchsde": torchsde.__version__, "python": platform.python_version()}
    about = {"dim": DIM, "dtype": "float32", "repeats by steps": lengths, **versions, "platform": platform.platform()}
    for name, rows in results.items():
        show(name, rows)
    if options.out:
        options.out.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
