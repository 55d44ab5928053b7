"""The matrix: cells of bases and tasks, each trained, published and judged."""
