"""Strata of an adapter's classification task: features at the answer, telling words."""
