"""Small networks for the handwritten digits of scikit-learn, 8 by 8 pixels, as torch initialises them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sdeadapt.oracles.network import Network

__all__ = ["NETWORKS", "cnn", "mlp", "on_digits", "starts", "transformer"]


def mlp(activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """Return a perceptron with two hidden layers of 64."""
    hidden = [nn.Linear(64, 64), activation(), nn.Linear(64, 64), activation()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))


def cnn(activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    """Return a network of two convolutions, with 16 and 32 channels, the second with stride 2."""
    first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
    return nn.Sequential(first, activation(), second, activation(), nn.Flatten(), nn.Linear(512, 10))


class _Block(nn.Module):
    """Self-attention, then a layer for every token alone; both normalise first and add to their input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.query_key_value(self.before_attention(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.unbind(-3)  # each (batch, tokens, heads, depth)
        attention = (torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
        x = x + self.out(torch.einsum("bhqk,bkhd->bqhd", attention, v).flatten(-2))
        return x + self.mlp(self.before_mlp(x))


class _Encoder(nn.Module):
    def __init__(self, width: int, heads: int, blocks: int):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.position = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(blocks)))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.out(self.norm(self.blocks(tokens)).mean(1))


def transformer(width: int = 32, heads: int = 4, blocks: int = 2) -> nn.Module:
    """Return an encoder over 16 patches of 2 by 2 pixels, normalised before each layer, averaged over its tokens."""
    return _Encoder(width, heads, blocks)


NETWORKS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


def digits_images(dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Return images, (1797, 1, 8, 8) in [0, 1], and labels, (1797,)."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=dtype, device=device).view(-1, 1, 8, 8), torch.tensor(labels, device=device)


def on_digits(make: Callable[[], nn.Module], batch_size: int, dtype: torch.dtype, device: str) -> Network:
    """Return the oracle of a network's mean cross entropy over the digits, with minibatches drawn with replacement.

    Raises:
        ValueError: if `make` does not return a network that `Network` takes, for these images and ten classes.
    """
    (module,) = _initialised(make, [0])
    images, labels = _digits(dtype)
    out = module.to(dtype)(images[:2])
    if out.shape != (2, 10):
        raise ValueError(f"A network must map images (batch, 1, 8, 8) to (batch, 10); got {tuple(out.shape)} of 2.")
    return Network(module, partial(cross_entropy, reduction="none"), (images, labels), batch_size).to(device, dtype)


def starts(make: Callable[[], nn.Module], seeds: Iterable[int]) -> Tensor:
    """Return (seeds, parameters), the network initialised anew from every seed; no global generator is changed."""
    vectors = [torch.cat([p.flatten() for p in module.parameters()]) for module in _initialised(make, seeds)]
    return torch.stack(vectors).detach()


def _initialised(make: Callable[[], nn.Module], seeds: Iterable[int]) -> list[nn.Module]:
    networks = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.random.default_generator.manual_seed(seed)
            network = make()
            if not isinstance(network, nn.Module):
                raise ValueError(f"A network must be a torch.nn.Module; got a {type(network).__name__}.")
            networks.append(network.eval())
    return networks


def _digits(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return images, (1797, 1, 8, 8) in [0, 1], and labels, (1797,)."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=dtype).view(-1, 1, 8, 8), torch.tensor(labels)
