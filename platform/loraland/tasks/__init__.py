"""Tasks: prompts, columns, targets, metrics and sources of rows."""
