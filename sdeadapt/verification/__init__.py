"""Weak errors and verdicts."""
