"""Networks on handwritten digits, small enough for the SDE itself: every step looks at all the examples."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sdeadapt.checks import check_integer
from sdeadapt.oracles.network import Network
from sdeadapt.problems.base import Problem, Suggestion
from sdeadapt.problems.closed_form import digit_features
from sdeadapt.simulation.observables import Snapshot

__all__ = ["Accuracy", "digits_cnn", "digits_mlp", "digits_small"]

METRICS = ("loss", "theta_norm_squared", "gradient_norm_squared", "noise_trace")
_IMAGES = 1797


@dataclass(frozen=True, eq=False)
class Accuracy:
    """The share of the examples that a path's network gets right: a test function, though not a smooth one.

    Args:
        predict: (theta (paths, dim), inputs) -> outputs (paths, n, classes).
        inputs: (n, …).
        labels: (n,).
    """

    predict: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    labels: Tensor

    def __call__(self, x: Snapshot) -> Tensor:
        """Return the shares, (paths,)."""
        outputs = self.predict(x.theta, self.inputs.to(x.theta))
        return (outputs.argmax(-1) == self.labels.to(x.theta.device)).to(x.theta.dtype).mean(-1)


def _built(make: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    """Return a module in float64 with weights by Xavier's rule from `seed`, and biases 0."""
    with torch.random.fork_rng(devices=[]):  # torch's layers draw from the global generator when they are made
        module = make().double()
    generator = torch.Generator().manual_seed(check_integer("seed", seed, minimum=0))
    for parameter in module.parameters():
        if parameter.dim() > 1:
            torch.nn.init.xavier_normal_(parameter, generator=generator)
        else:
            torch.nn.init.zeros_(parameter)
    return module


def _images(examples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return inputs and labels of the first images, for training, and of the others; pixels centred, in units of 8.

    Raises:
        ValueError: if `examples` leaves none for the test.
    """
    from sklearn.datasets import load_digits

    if not 2 <= examples < _IMAGES:
        raise ValueError(
            f"`examples` must lie in [2, {_IMAGES - 1}], which leaves images for the test; got {examples}."
        )
    pixels, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    x = (pixels.double() - pixels[:examples].double().mean(0)) / 8
    return x[:examples], labels[:examples], x[examples:], labels[examples:]


def _on_images(
    name: str, module: torch.nn.Module, what: str, shape: tuple[int, ...], *, examples: int, batch_size: int,
    sampling: str, diagonal: str,
) -> Problem:  # fmt: skip
    x, labels, test_x, test_labels = _images(examples)
    x, test_x = (part.unflatten(1, shape) for part in (x, test_x))
    oracle = Network(
        module, functools.partial(cross_entropy, reduction="none"), (x, labels), batch_size, sampling, diagonal
    )
    return Problem(
        name=name,
        oracle=oracle,
        theta0=oracle.theta0,
        horizon=64 * 2.0**-16,
        test_functions=METRICS,
        about=f"{what} with {oracle.dim:,} parameters on {examples:,} images of digits, batches of {batch_size}",
        suggested=_SUGGESTED,
        shown={"test_accuracy": Accuracy(oracle.predict, test_x, test_labels)},
        paths=128,
    )


# lr = 1/256; (1 - beta)/lr^2 is a memory of 16 steps, of 8 for m; eps is small beside the noise of a gradient
_SUGGESTED = {
    "adam": Suggestion({"lr": 2.0**-8, "beta1": 0.875, "beta2": 0.9375, "eps": 1e-3}),
    "rmsprop": Suggestion({"lr": 2.0**-8, "beta": 0.9375, "eps": 1e-3}),
    "sgd": Suggestion({"lr": 0.0625}, horizon=4.0),
}


def digits_mlp(
    *,
    hidden: int = 32,
    examples: int = 1000,
    batch_size: int = 4,
    sampling: str = "replacement",
    diagonal: str = "exact",
    seed: int = 0,
) -> Problem:
    """Return the 64–32–10 network with tanh on the ten digits: 2,410 parameters, true minibatch noise.

    Args:
        hidden: units of the hidden layer.
        examples: images to train on, the first ones; the others, up to 1,797, give the test accuracy.
        batch_size: B.
        sampling: "replacement", "batch" or "epoch".
        diagonal: "exact" or "probe", see `oracles.Network`.
        seed: of the initial parameters.

    Raises:
        ValueError: if an option is out of its range.

    Example:
        >>> found = digits_mlp()
        >>> found.oracle.dim, found.oracle.noise_dim
        (2410, 1000)
    """
    check_integer("hidden", hidden)
    layers = lambda: torch.nn.Sequential(torch.nn.Linear(64, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 10))  # noqa: E731
    return _on_images(
        "digits_mlp", _built(layers, seed), f"a 64–{hidden}–10 network", (64,), examples=examples,
        batch_size=batch_size, sampling=sampling, diagonal=diagonal,
    )  # fmt: skip


def digits_cnn(
    *,
    channels: int = 8,
    examples: int = 200,
    batch_size: int = 4,
    sampling: str = "replacement",
    diagonal: str = "probe",
    seed: int = 0,
) -> Problem:
    """Return a convolutional network with tanh on the ten digits: two layers of 3 x 3 filters, 1,898 parameters.

    Args:
        channels: filters of the first layer; the second has twice as many.
        examples: as for `digits_mlp`, like all that follow.
        batch_size: B.
        sampling: "replacement", "batch" or "epoch".
        diagonal: "exact" or "probe".
        seed: of the initial parameters.

    Raises:
        ValueError: if an option is out of its range.
    """
    check_integer("channels", channels)

    def layers() -> torch.nn.Module:
        nn = torch.nn
        one, two = nn.Conv2d(1, channels, 3, padding=1), nn.Conv2d(channels, 2 * channels, 3, padding=1)
        halved = (nn.Tanh(), nn.AvgPool2d(2))
        return nn.Sequential(one, *halved, two, *halved, nn.Flatten(), nn.Linear(8 * channels, 10))

    return _on_images(
        "digits_cnn", _built(layers, seed), "a convolutional network", (1, 8, 8), examples=examples,
        batch_size=batch_size, sampling=sampling, diagonal=diagonal,
    )  # fmt: skip


def digits_small(
    *,
    components: int = 8,
    hidden: int = 6,
    first: int = 3,
    second: int = 8,
    examples: int = 100,
    batch_size: int = 4,
    sampling: str = "replacement",
    diagonal: str = "exact",
    seed: int = 0,
) -> Problem:
    """Return the 8–6–2 network with tanh that tells two digits apart by principal components: small enough to verify.

    Args:
        components: principal components kept, each standardised.
        hidden: units of the hidden layer.
        first: the digit with label 0.
        second: the digit with label 1.
        examples: the first ones of the 357 of 3 against 8.
        batch_size: B.
        sampling: "replacement", "batch" or "epoch".
        diagonal: "exact" or "probe".
        seed: of the initial parameters.

    Returns:
        The problem. `verify` looks at all examples at every step of very many paths, hence only 100 of them.

    Raises:
        ValueError: if an option is out of its range.
    """
    check_integer("hidden", hidden)
    features, labels = digit_features(components, first, second)
    layers = lambda: torch.nn.Sequential(  # noqa: E731
        torch.nn.Linear(components, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 2)
    )
    if not 2 <= examples <= len(labels):
        raise ValueError(
            f"`examples` must lie in [2, {len(labels)}], the images of {first} and {second}; got {examples}."
        )
    data = torch.tensor(features)[:examples], torch.tensor(labels)[:examples].long()
    loss = functools.partial(cross_entropy, reduction="none")
    oracle = Network(_built(layers, seed), loss, data, batch_size, sampling, diagonal)
    return Problem(
        name="digits_small",
        oracle=oracle,
        theta0=oracle.theta0,
        horizon=0.125,
        test_functions=METRICS,
        about=f"a {components}–{hidden}–2 network, {first} against {second}, batches of {batch_size}",
        suggested={
            "sgd": Suggestion({"lr": 0.125}, horizon=1.0, multipliers=(1, 2, 4)),
            "rmsprop": Suggestion({"lr": 0.125, "beta": 0.9375, "eps": 0.04}, multipliers=(1, 2, 3)),
            "adam": Suggestion(
                {"lr": 0.125, "beta1": 0.875, "beta2": 0.9375, "eps": 0.04}, horizon=0.25, multipliers=(1, 2, 3)
            ),
        },
    )
