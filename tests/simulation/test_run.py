"""Chunks: in order, on any executor, the same bits."""

import concurrent.futures as futures
import pickle

import pytest
import torch

from sdeadapt.methods.sgd import SGD
from sdeadapt.oracles.analytic import Rippled
from sdeadapt.simulation.ensemble import simulate
from sdeadapt.simulation.run import Run, run_chunks, workers


def test_results_are_in_order_and_progress_is_told():
    told = []
    run = Run(progress=lambda done, total: told.append((done, total)))
    assert list(run_chunks(lambda i: i * i, 4, run, offset=3)) == [9, 16, 25, 36]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_any_executor_will_do():
    with futures.ThreadPoolExecutor(2) as pool:
        assert list(run_chunks(lambda i: -i, 5, Run(executor=pool))) == [0, -1, -2, -3, -4]


def test_an_error_in_a_chunk_comes_through():
    def job(i):
        raise FloatingPointError(f"chunk {i}")

    with futures.ThreadPoolExecutor(1) as pool:
        for run in (Run(), Run(executor=pool)):
            with pytest.raises(FloatingPointError, match="chunk 7"):
                list(run_chunks(job, 1, run, offset=7))


# --- the same bits ------------------------------------------------------------------------------------------------


def bits(run):
    """An ensemble of 5 chunks with a lambda and a closure in the job, and sums whose order matters."""
    power = 3
    functions = {
        "lambda": lambda x: (x.theta @ x.theta[:4].T).sum(1),
        "closure": lambda x: x.theta.abs().sum(1) ** power,
    }
    result = simulate(SGD(0.1), Rippled(1.0, dim=4), theta0=[1.0] * 4, steps=20, test_functions=functions, paths=640,
                      keep_paths=200, rng=7, run=run)  # fmt: skip
    return pickle.dumps([result.mean, result.sem, result.paths.tobytes()])


def test_two_workers_and_this_process():
    with workers(2) as pool:
        assert bits(Run(chunk=128, executor=pool)) == bits(Run(chunk=128))
        assert set(run_chunks(lambda _: torch.get_num_threads(), 3, Run(executor=pool))) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 4])
def test_any_number_of_workers(n):
    with workers(n) as pool:
        assert bits(Run(chunk=128, executor=pool)) == bits(Run(chunk=128))


def test_the_chunk_is_part_of_the_key():
    assert bits(Run(chunk=64)) != bits(Run(chunk=128))
    assert bits(Run(chunk=128)) == bits(Run(chunk=128))


# --- the edge -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scratch", "size"), [(1, 4096), (1 << 13, 4096), (1 << 14, 2048), (3 << 13, 1024), (1 << 30, 64)]
)
def test_chunk_size_is_a_power_of_two_that_fits(scratch, size):
    assert Run().chunk_size(scratch) == size
    assert Run(chunk=100).chunk_size(scratch) == 100


def test_dtype_by_name():
    assert Run(dtype="float32").torch_dtype == torch.float32
    assert Run().torch_dtype == torch.float64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: workers(0), "`n` must be a whole number >= 1; got 0"),
        (lambda: Run(chunk=0), "`chunk` must be a whole number >= 1; got 0"),
        (lambda: Run(dtype="float16"), "`dtype` must be one of 'float64', 'float32'; got 'float16'"),
    ],
)
def test_the_edge_says_the_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match=r"`device` must be one that torch can use; got 'cuda'. Try device='cpu'"):
        Run(device="cuda")
