"""The generators by name. A new one adds its module here and its entry to the catalogue."""

from __future__ import annotations

from loraland.errors import UnknownTask, did_you_mean
from loraland.tasks.generated import dates, entities, rare_form, shortcut, sql, topics
from loraland.tasks.generated.stream import Generator

GENERATORS = {
    generator.name: generator
    for generator in (
        dates.GENERATOR,
        entities.GENERATOR,
        sql.GENERATOR,
        topics.GENERATOR,
        shortcut.GENERATOR,
        rare_form.GENERATOR,
    )
}


def get_generator(name: str) -> Generator:
    """The generator of that name. Raises UnknownTask."""
    if name not in GENERATORS:
        raise UnknownTask(f"no generator is called '{name}'; {did_you_mean(name, GENERATORS)}")
    return GENERATORS[name]
