"""Digits with Adam, warm-up and cosine decay at batch size 2, and at 8 by the rule."""

import math

import torch
from sklearn.datasets import load_digits

from sdeadapt.training import rescale_, stretch

images, labels = (torch.tensor(a) for a in load_digits(return_X_y=True))
images, steps = images.float() / 16, 800  # steps at batch size 2


def schedule(step):
    return min(1.0, (step + 1) / 100) * (1 + math.cos(math.pi * step / steps)) / 2


def train(batch_size, seed=0, rule=rescale_):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.9, 0.99))
    kappa = batch_size / 2
    rule(optimizer, kappa)  # before the scheduler
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, stretch(schedule, 1 / kappa))
    for _ in range(round(steps / kappa)):
        rows = torch.randint(len(images), (batch_size,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(model(images), labels))


print(f"loss {train(2):.3f} at batch size 2, {train(8):.3f} at 8 by the rule")
