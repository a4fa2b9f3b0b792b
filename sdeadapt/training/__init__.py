"""Tools for ordinary torch training loops."""

from sdeadapt.training.rescale import rescale_
from sdeadapt.training.schedules import stretch
from sdeadapt.training.svag import SVAG
from sdeadapt.training.variance_adapted import MomentumVarianceAdapted, VarianceAdapted

__all__ = ["SVAG", "MomentumVarianceAdapted", "VarianceAdapted", "rescale_", "stretch"]
