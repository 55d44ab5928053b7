"""Evaluation: answers, scores with intervals, and the lift of an adapter over its base."""
