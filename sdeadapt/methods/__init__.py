"""Optimizers: iteration, rescaling and SDE side by side, one file each."""

from sdeadapt.methods.adam import Adam
from sdeadapt.methods.base import ItoSDE, Method, Schedule
from sdeadapt.methods.momentum import Momentum
from sdeadapt.methods.registry import METHODS, method
from sdeadapt.methods.rmsprop import RMSprop
from sdeadapt.methods.sgd import SGD
from sdeadapt.methods.torch_optimizer import from_torch

__all__ = ["METHODS", "SGD", "Adam", "ItoSDE", "Method", "Momentum", "RMSprop", "Schedule", "from_torch", "method"]
