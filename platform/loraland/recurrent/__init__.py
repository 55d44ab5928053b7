"""Recurrent nets from first principles, after Sherstinsky (2020, arXiv 1808.03314), corrected."""
