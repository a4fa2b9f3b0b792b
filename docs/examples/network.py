"""A model, a loss and data of one's own as a problem: sdeadapt compare --problem network:regression --method adam."""

import torch

from sdeadapt.oracles import Network
from sdeadapt.problems import Problem, Suggestion


def regression(hidden: int = 8, batch_size: int = 2) -> Problem:
    """A network that fits a sine; its options are those of --problem-set."""
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(64, 1, generator=generator)
    y = torch.sin(x[:, 0]) + 0.1 * torch.randn(64, generator=generator)
    model = torch.nn.Sequential(torch.nn.Linear(1, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)

    def loss(outputs, targets):  # one number per example
        return (outputs[:, 0] - targets).square() / 2

    oracle = Network(model, loss, (x, y), batch_size)
    at_zero = torch.zeros(1, 1)
    return Problem(
        name="regression",
        oracle=oracle,
        theta0=oracle.theta0,
        horizon=2.0**-8,
        test_functions=["loss", "theta_norm_squared"],
        suggested={"adam": Suggestion({"lr": 2.0**-6, "beta1": 0.875, "beta2": 0.9375, "eps": 1e-3})},
        shown={"at_zero": lambda x: oracle.predict(x.theta.float(), at_zero.to(x.theta.device))[:, 0, 0]},
    )
