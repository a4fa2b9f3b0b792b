"""A model of one's own: do the SDE's assumptions hold, and is the chain close to the SDE, at two batch sizes?"""

import torch
from sklearn.datasets import make_moons
from torch import nn

import sdeadapt as sa

inputs, labels = (torch.as_tensor(part) for part in make_moons(200, noise=0.3, random_state=0))
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)).double()
oracle = sa.oracles.Network(model, nn.CrossEntropyLoss(reduction="none"), (inputs, labels), batch_size=2)
rmsprop = sa.RMSprop(lr=0.01, beta=0.99, eps=1e-3)

found = {}
for kappa in (1, 16):
    method, batch = rmsprop.rescaled(kappa), oracle.with_batch(2 * kappa)
    run = {"theta0": oracle.theta0, "steps": 128 // kappa, "times": 4}
    noise = sa.gradient_noise(method, batch, **run)
    close = sa.compare(method, batch, **run, multipliers=(1,), paths=512, substeps=2)
    found[2 * kappa] = noise, close
    print(f"batch {2 * kappa}: {noise.verdict}, {noise.message}")
    print(f"  {close.verdict}, {close.message}")
