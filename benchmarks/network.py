"""Gradients per second of an ensemble of networks beside a loop of ordinary steps, and what a step of its SDE costs.

All sides use the 64–32–10 network on 1,000 images of digits, 64 paths, batches of 32, float32. Repeats are interleaved
and medians compared: processor time on one thread, then wall time on as many threads as cores, which an idle machine
must have to itself.

    python benchmarks/network.py --out network.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from sdeadapt.methods import Adam, RMSprop
from sdeadapt.oracles import Network
from sdeadapt.problems import digits_cnn, digits_mlp
from sdeadapt.simulation.solvers import euler_step

Sides = dict[str, Callable[[], object]]

TARGETS = {
    "ensemble / loop": (5.0, "at least"),
    "compiled ensemble / loop": (12.0, "at least"),
    "gradient and diffuse / gradient": (1.3, "at most"),
    "RMSprop, probe / gradient": (2.5, "at most"),
    "Adam, probe / gradient": (2.5, "at most"),
}


class Layer(torch.nn.Linear):
    """A layer of which the oracle does not know that it is linear."""


def points(oracle: Network, paths: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return oracle.theta0 + 0.01 * torch.randn(paths, oracle.dim, generator=generator, dtype=oracle.dtype)


def minibatches(oracle: Network, paths: int) -> Sides:
    """Return the sides of `paths` minibatch gradients."""
    theta, generator = points(oracle, paths), torch.Generator().manual_seed(0)
    stream, fused = oracle.stream(generator, paths), replace(oracle, compiled=True)
    module, (x, y), size = oracle.module, oracle.data, oracle.batch_size

    def loop() -> None:
        for _ in range(paths):
            batch = torch.randint(len(x), (size,), generator=generator)
            module.zero_grad()
            with torch.enable_grad():
                cross_entropy(module(x[batch]), y[batch]).backward()

    return {
        "loop": loop,
        "ensemble": lambda: oracle.sample(oracle.at(theta), stream.next()),
        "compiled ensemble": lambda: fused.sample(fused.at(theta), stream.next()),
    }


def steps(oracle: Network, paths: int) -> Sides:
    """Return the full gradient, alone and with what an Euler step of an SDE needs beside it."""
    theta, generator = points(oracle, paths), torch.Generator().manual_seed(0)

    def noise() -> torch.Tensor:
        return torch.randn(paths, oracle.noise_dim, generator=generator, dtype=oracle.dtype)

    def both() -> None:
        here = oracle.at(theta)
        here.gradient, here.diffuse(noise())

    sides: Sides = {"gradient": lambda: oracle.at(theta).gradient, "gradient and diffuse": both}
    for name, method in {"RMSprop": RMSprop(0.01, 0.9, 1e-3), "Adam": Adam(0.01, 0.9, 0.9, 1e-3)}.items():
        for diagonal in ("probe", "exact"):
            sde = method.sde(replace(oracle, diagonal=diagonal))
            x = sde.point(*(theta if field == "theta" else torch.ones_like(theta) for field in sde.point._fields))
            sides[f"{name}, {diagonal}"] = lambda sde=sde, x=x: euler_step(sde, 1.0, x, 1e-5, noise())
    return sides


def seconds(sides: Sides, repeats: int, calls: int = 1) -> dict[str, float]:
    """Return seconds of a call, the median of interleaved repeats of some after one that is not counted."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in sides}
    with torch.no_grad():
        for _ in range(repeats + 1):
            for name, side in sides.items():
                begin = clock()
                for _ in range(calls):
                    side()
                found[name].append((clock() - begin) / calls)
    return {name: statistics.median(times[1:]) for name, times in found.items()}


def show(title: str, rows: dict[str, float], base: str, paths: int) -> dict[str, float]:
    """Print every side beside `base`; return the ratios that are reported."""
    print(title)
    ratios = {}
    for name, value in rows.items():
        if base == "loop":
            ratio, text = rows[base] / value, f"{paths / value:10,.0f} gradients/s"
        else:
            ratio, text = value / rows[base], f"{1e3 * value:10.1f} ms"
        key = f"{name} / {base}"
        ratios[key] = ratio
        target = TARGETS.get(key)
        print(
            f"  {name:24s} {text}  {ratio:6.2f} x {base}" + (f"   (target {target[1]} {target[0]:g})" if target else "")
        )
    return ratios


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="file for the numbers, JSON")
    parser.add_argument("--smoke", action="store_true", help="a small run, to see that it runs")
    options = parser.parse_args(argv)
    paths, examples, short, long = (4, 50, 1, 1) if options.smoke else (64, 1000, 15, 9)
    mlp = digits_mlp(examples=examples, batch_size=32).oracle.to("cpu", torch.float32)
    general = replace(mlp, module=torch.nn.Sequential(Layer(64, 32), torch.nn.Tanh(), Layer(32, 10)))
    cnn = digits_cnn(examples=examples // 5, channels=4, batch_size=32).oracle.to("cpu", torch.float32)
    before, results = torch.get_num_threads(), {}
    try:
        for threads in sorted({1, before}):
            torch.set_num_threads(threads)
            title = f"minibatch gradients, threads: {threads}"
            results[title] = show(title, seconds(minibatches(mlp, paths), short, 10), "loop", paths)
            for network, oracle, repeats in (
                ("linear layers", mlp, long),
                ("the same network by vjp", general, long),
                ("convolutions", cnn, max(1, long // 3)),
            ):
                title = f"SDE step, {network}, threads: {threads}"
                results[title] = show(title, seconds(steps(oracle, paths), repeats), "gradient", paths)
    finally:
        torch.set_num_threads(before)
    if options.out:
        about = {"torch": torch.__version__, "platform": platform.platform(), "paths": paths, "examples": examples}
        options.out.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
