"""Chains and SDEs in ensembles: chunks of paths, each a pure function of its seed, with means and their errors."""
