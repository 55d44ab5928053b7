"""Training: from rows to an adapter, one cell at a time."""
