"""Small networks for the handwritten digits of scikit-learn, 8 by 8 pixels, and many copies of one at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from sdeadapt.checks import check_choice

__all__ = ["NETWORKS", "Copies", "cnn", "digits_images", "mlp", "transformer"]


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


@dataclass(frozen=True, eq=False)
class Copies:
    """Networks of one architecture, initialised independently: their parameters as the rows of one matrix.

    Args:
        network: one of them, for its structure.
        start: (copies, parameters).
        shapes: of every parameter, by its name, in the order of the columns.
    """

    network: nn.Module
    start: Tensor
    shapes: dict[str, torch.Size]

    @classmethod
    def make(cls, make: Callable[[], nn.Module], seeds: list[int], dtype: torch.dtype, device: str) -> Copies:
        """Return one copy per seed, each with its architecture's own initialisation, in evaluation mode.

        The caller's global generator is left as it was.

        Raises:
            ValueError: if `make` does not return a module.
        """
        networks = []
        with torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.random.default_generator.manual_seed(seed)
                network = make()
                if not isinstance(network, nn.Module):
                    raise ValueError(f"A network must be a torch.nn.Module; got a {type(network).__name__}.")
                networks.append(network.to(device, dtype).eval())
        parameters, _ = stack_module_state(networks)
        start = torch.cat([p.detach().flatten(1) for p in parameters.values()], 1)
        return cls(networks[0], start, {name: p.shape[1:] for name, p in parameters.items()})

    def columns(self, name: str | None) -> slice:
        """Return the columns of one parameter, or of all.

        Raises:
            ValueError: if there is none of that name; the message has those there are.
        """
        if name is None:
            return slice(None)
        check_choice("layer", name, self.shapes)
        names, sizes = list(self.shapes), [shape.numel() for shape in self.shapes.values()]
        k = names.index(name)
        return slice(sum(sizes[:k]), sum(sizes[: k + 1]))

    def gradient(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Return (parameters, images, labels) -> the gradients of each copy's mean cross entropy on its own batch.

        The three have a leading axis of copies.
        """
        sizes = [shape.numel() for shape in self.shapes.values()]

        def loss(theta: Tensor, images: Tensor, labels: Tensor) -> Tensor:
            parts = zip(self.shapes.items(), theta.split(sizes), strict=True)
            parameters = {name: part.view(shape) for (name, shape), part in parts}
            return nn.functional.cross_entropy(functional_call(self.network, parameters, (images,)), labels)

        return vmap(grad(loss))
