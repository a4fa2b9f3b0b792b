"""Estimates with standard errors, and intervals."""
