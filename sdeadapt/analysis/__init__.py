"""Laws and statistics of the source texts."""
