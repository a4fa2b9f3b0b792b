"""Optimizers: iteration, rescaling and SDE side by side, one file each."""
