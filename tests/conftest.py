"""Settings of the whole suite: one torch thread per process, no window, reproducible property tests."""

import matplotlib as mpl
import torch
from hypothesis import settings

mpl.use("Agg")
torch.set_num_threads(1)  # the last bits of sums depend on it, and `-n 2` would give each core two processes' threads
settings.register_profile("sdeadapt", derandomize=True, deadline=None, database=None)
settings.load_profile("sdeadapt")
