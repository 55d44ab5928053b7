"""The application on Ray Serve: one deployment that answers and holds the model.

A replica loads the model when it starts and follows newer ones; people and events are in the
database, so that a replica that dies takes nothing with it.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from ray import serve

from loraland import settings
from loraland.cellar.config import CellarConfig
from loraland.cellar.database import POSTGRES, named, open_database, url_of
from loraland.cellar.following import Follower, ensure_model
from loraland.cellar.host import Host
from loraland.cellar.routes import create_app
from loraland.cellar.store import Store
from loraland.errors import InvalidConfiguration
from loraland.serving.actors import ONE_LOOP_ENV, actor_options
from loraland.serving.log_lines import into_serve_logs
from loraland.storage import Storage


class Cellar:
    """A replica. Serve calls the method that builds the application."""

    def __init__(self, config: CellarConfig, storage: str, database: str | None) -> None:
        """Open database and model, and fit made-up reviews where the configuration says so."""
        into_serve_logs()
        opened = Storage.open(storage)
        store = Store(open_database(url_of(database, opened)))
        if config.make_up:
            ensure_model(opened, config.model)
        self._host, self._limits = Host(store, Follower(opened, config.model)), config.limits

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._host, self._limits)


def build(config: CellarConfig | None = None) -> Any:
    """A `serve.Application` of what `config` says.

    Opens nothing here. Raises InvalidConfiguration for a database that cannot be, and for several
    replicas of SQLite.
    """
    config = config or CellarConfig()
    storage = config.storage or settings.storage_uri()
    if database := config.database or settings.database_url():
        database = named(database).render_as_string()  # a path as it is seen from here
    if config.replicas > 1 and not (database or "").startswith(POSTGRES):
        raise InvalidConfiguration(
            f"{config.replicas} replicas may be on several machines, and SQLite is a file of one; "
            "name a PostgreSQL database (LORALAND_DATABASE), or take one replica"
        )
    deployment = serve.deployment(serve.ingress()(Cellar)).options(
        name="cellar",
        num_replicas=config.replicas,
        max_ongoing_requests=config.limits.requests + 1,
        ray_actor_options=actor_options(ONE_LOOP_ENV, num_cpus=config.num_cpus),
    )
    return deployment.bind(config, storage, database)
