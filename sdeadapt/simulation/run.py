"""How a study runs: device, dtype, chunks, workers. A chunk is one pure function of (job, index)."""

from __future__ import annotations

import concurrent.futures as futures
import hashlib
import multiprocessing
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import cloudpickle
import torch

from sdeadapt.checks import check_choice, check_integer

__all__ = ["Run", "run_chunks", "workers"]

Result = TypeVar("Result")
_jobs: OrderedDict[str, Callable[[int], Any]] = OrderedDict()  # in a worker: the jobs it met last


@dataclass(frozen=True)
class Run:
    """Where and how the paths run. None of it changes what is estimated; `chunk` and `dtype` are part of the key.

    Args:
        device: "cpu", "cuda", "cuda:0", …
        dtype: "float64" (default) or "float32".
        chunk: paths per chunk; None chooses from the oracle's `bytes_per_path` (about 4,096 small paths on a CPU).
        executor: any `concurrent.futures.Executor`, e.g. `sdeadapt.workers(2)`; None runs in this process.
        progress: called with (chunks done, chunks in all).

    Example:
        >>> Run().torch_dtype
        torch.float64
    """

    device: str = "cpu"
    dtype: str = "float64"
    chunk: int | None = None
    executor: futures.Executor | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        check_choice("dtype", self.dtype, ("float64", "float32"))
        if self.chunk is not None:
            check_integer("chunk", self.chunk)
        try:
            usable = torch.device(self.device).type != "cuda" or torch.cuda.is_available()
        except RuntimeError:  # not the name of a device
            usable = False
        if not usable:
            raise ValueError(f"`device` must be one that torch can use; got {self.device!r}. Try device='cpu'.")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The torch dtype named by `dtype`."""
        return torch.float64 if self.dtype == "float64" else torch.float32

    def chunk_size(self, bytes_per_path: int) -> int:
        """Return the paths per chunk: a power of two with scratch memory of 32 MiB (CPU) or 4 GiB (GPU) at most."""
        if self.chunk is not None:
            return self.chunk
        on_cpu = torch.device(self.device).type == "cpu"
        budget, most = (1 << 25, 4096) if on_cpu else (1 << 32, 1 << 18)
        size = max(64, min(most, budget // max(bytes_per_path, 1)))
        return 1 << (size.bit_length() - 1)


def _one_thread() -> None:
    torch.set_num_threads(1)


def workers(n: int) -> futures.ProcessPoolExecutor:
    """Return `n` spawned worker processes with one torch thread each; the same bits for any `n`.

    They are spawned, not forked: a forked child hangs after a parallel matmul in its parent. Use as a context manager.

    Args:
        n: number of processes, >= 1.
    """
    check_integer("n", n)
    return futures.ProcessPoolExecutor(n, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread)


def _call(digest: str, blob: bytes, index: int) -> Any:
    if digest not in _jobs:
        _jobs[digest] = cloudpickle.loads(blob)
        while len(_jobs) > 8:
            _jobs.popitem(last=False)
    return _jobs[digest](index)


def run_chunks(job: Callable[[int], Result], count: int, run: Run, *, offset: int = 0) -> Iterator[Result]:
    """Yield job(offset), …, job(offset + count − 1), in this order whatever the executor.

    Args:
        job: a pure function of the chunk's index; closures and lambdas work, it travels by cloudpickle.
        count: number of chunks.
        run: the executor and the progress callback.
        offset: the first index.
    """
    indices = range(offset, offset + count)
    if run.executor is None:
        results: Iterator[Result] = map(job, indices)
    else:
        blob = cloudpickle.dumps(job)
        digest = hashlib.sha256(blob).hexdigest()
        pending = [run.executor.submit(_call, digest, blob, i) for i in indices]
        results = (future.result() for future in pending)
    for done, result in enumerate(results, 1):
        if run.progress is not None:
            run.progress(done, count)
        yield result
