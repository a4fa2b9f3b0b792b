"""The run-time type checker of the test suite: as beartype, and a whole number is a number (PEP 484)."""

from beartype import BeartypeConf, beartype

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
