"""Tools for ordinary torch training loops."""

from sdeadapt.training.rescale import rescale_
from sdeadapt.training.schedules import stretch
from sdeadapt.training.svag import SVAG

__all__ = ["SVAG", "rescale_", "stretch"]
