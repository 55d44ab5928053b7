"""Adapters at rest: names, cards, folders, what may enter, and the registry that keeps them."""
