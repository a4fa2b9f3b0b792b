"""What gives noisy gradients."""

from sdeadapt.oracles.amplified import Amplified
from sdeadapt.oracles.analytic import MultiplicativeNoise, Quadratic, Rippled, constant_noise
from sdeadapt.oracles.base import Draw, Local, NotDeclared, Oracle, Stream
from sdeadapt.oracles.finite_sum import LinearRegression, LogisticRegression
from sdeadapt.oracles.functions import FromFunctions
from sdeadapt.oracles.network import Network
from sdeadapt.oracles.noise import Gaussian, Laplace, Noise, ShiftedExponential, StudentT, TwoPoint, Uniform
from sdeadapt.oracles.penalised import Penalised

__all__ = [
    "Amplified",
    "Draw",
    "FromFunctions",
    "Gaussian",
    "Laplace",
    "LinearRegression",
    "Local",
    "LogisticRegression",
    "MultiplicativeNoise",
    "Network",
    "Noise",
    "NotDeclared",
    "Oracle",
    "Penalised",
    "Quadratic",
    "Rippled",
    "ShiftedExponential",
    "Stream",
    "StudentT",
    "TwoPoint",
    "Uniform",
    "constant_noise",
]
