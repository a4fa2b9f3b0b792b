"""Optimizers: iteration, rescaling and SDE side by side, one file each."""

from sdeadapt.methods.adadelta import Adadelta
from sdeadapt.methods.adagrad import Adagrad
from sdeadapt.methods.adam import Adam
from sdeadapt.methods.adamw import AdamW, RMSpropW
from sdeadapt.methods.averaged import Averaged
from sdeadapt.methods.base import ItoSDE, Method, Schedule
from sdeadapt.methods.cards import MethodCard, card, methods_table
from sdeadapt.methods.momentum import Momentum
from sdeadapt.methods.registry import METHODS, method
from sdeadapt.methods.rmsprop import RMSprop
from sdeadapt.methods.schedules import FadingAdam, inverse_root
from sdeadapt.methods.sgd import SGD
from sdeadapt.methods.sign_sgd import SignSGD
from sdeadapt.methods.signum import Signum
from sdeadapt.methods.torch_optimizer import from_torch
from sdeadapt.methods.variance_adapted import MomentumVarianceAdapted, VarianceAdapted

__all__ = [
    "METHODS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Averaged",
    "FadingAdam",
    "ItoSDE",
    "Method",
    "MethodCard",
    "Momentum",
    "MomentumVarianceAdapted",
    "RMSprop",
    "RMSpropW",
    "Schedule",
    "SignSGD",
    "Signum",
    "VarianceAdapted",
    "card",
    "from_torch",
    "inverse_root",
    "method",
    "methods_table",
]
