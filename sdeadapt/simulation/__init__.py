"""Chains and SDEs in ensembles."""
