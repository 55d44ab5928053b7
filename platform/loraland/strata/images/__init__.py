"""Strata of image classifiers: data sets as published, a small network, training in all modes."""
