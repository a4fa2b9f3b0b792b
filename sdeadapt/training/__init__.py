"""Tools for ordinary torch training loops."""
