"""Checks for what users write themselves: oracles and methods."""

from sdeadapt.testing.comparison import Comparison
from sdeadapt.testing.method import MethodMismatch, MethodReport, check_method
from sdeadapt.testing.oracle import OracleMismatch, OracleReport, check_oracle

__all__ = [
    "Comparison",
    "MethodMismatch",
    "MethodReport",
    "OracleMismatch",
    "OracleReport",
    "check_method",
    "check_oracle",
]
