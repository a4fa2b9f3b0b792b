"""Does an SDE describe this run? Refine it by SVAG and look whether the result stays."""

import math

import torch
from sklearn.datasets import load_digits

from sdeadapt.training import SVAG, stretch

images, labels = (torch.tensor(a) for a in load_digits(return_X_y=True))
images, steps = images.float() / 16, 100


def schedule(step):
    return min(1.0, (step + 1) / 10) * (1 + math.cos(math.pi * step / steps)) / 2


def train(multiplier, seed=0, batch_size=4):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
    optimizer = SVAG(torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.9, 0.99)), multiplier)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, stretch(schedule, optimizer.refinement))

    def closure():  # called twice a step: draw the batch here
        rows = torch.randint(len(images), (batch_size,))
        loss = torch.nn.functional.cross_entropy(model(images[rows]), labels[rows])
        loss.backward()
        return loss

    for _ in range(steps * optimizer.refinement):
        optimizer.step(closure)
        scheduler.step()
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(model(images), labels))


losses = {multiplier: train(multiplier) for multiplier in (1, 2)}
print(*(f"multiplier {multiplier}: loss {loss:.3f}" for multiplier, loss in losses.items()), sep="\n")
