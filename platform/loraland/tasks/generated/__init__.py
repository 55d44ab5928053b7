"""Tasks whose rows are made: seeded, endless, train and test disjoint by construction."""

from loraland.tasks.generated.registry import GENERATORS, get_generator
from loraland.tasks.generated.stream import Generator, is_test

__all__ = ["GENERATORS", "Generator", "get_generator", "is_test"]
