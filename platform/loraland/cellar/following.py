"""Follows the newest model of a name: a newer one is loaded aside and takes over when it is warm.

Where none is kept, one of made-up reviews can be fitted. Knows no people and no HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from loraland.errors import LoraLandError
from loraland.palate import artifact
from loraland.palate.cleaning import catalogue_of
from loraland.palate.fitting import FitSettings, fit
from loraland.palate.generator import PALATES, ROWS, SEED, generate, source_of
from loraland.palate.model import PalateModel
from loraland.storage import Storage

logger = logging.getLogger(__name__)

BELIEVED_S = 5.0  # until storage is asked again which version is the newest


def ensure_model(storage: Storage, name: str) -> None:
    """Fit made-up reviews under a name that has no model; seconds, and the same every time.

    Two processes that do it together write the same files. Raises InvalidName.
    """
    if name in artifact.names(storage):
        return
    logger.warning("no palates '%s' in %s: made-up reviews are fitted", name, storage.uri)
    cleaned = catalogue_of(generate(ROWS, PALATES, SEED).reviews)
    source = source_of(ROWS, PALATES, SEED)
    settings = FitSettings(k=PALATES, seed=SEED)
    model = fit(cleaned.catalogue, settings, source=source, warnings=cleaned.warnings)
    artifact.save(model, storage, name)


class Follower:
    """The model to answer with. Its methods may be called from any thread."""

    def __init__(
        self,
        storage: Storage,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load the newest model now. Raises as `artifact.load` does."""
        self.name = name
        self._storage, self._clock = storage, clock
        self._model = self._load(artifact.latest(storage, name))
        self._looked = clock()
        self._looking = threading.Lock()

    def current(self) -> PalateModel:
        """The newest model that is loaded; never waits. Looks for a newer one now and then."""
        due = self._clock() >= self._looked + BELIEVED_S
        if due and self._looking.acquire(blocking=False):
            self._looked = self._clock()
            threading.Thread(target=self._look, name="palate-follower", daemon=True).start()
        return self._model

    def refresh(self) -> bool:
        """Look for a newer model now, and take it; whether there was one.

        Where it cannot be read the model stays, the log says why, and it is tried again.
        """
        try:
            version = artifact.latest(self._storage, self.name)
            if version == self._model.version:
                return False
            self._model = self._load(version)
        except (LoraLandError, OSError) as error:
            logger.error("palates '%s' stay @%s: %s", self.name, self._model.version, error)
            return False
        logger.warning("palates '%s' are @%s now", self.name, version)
        return True

    def _look(self) -> None:
        try:
            self.refresh()
        finally:
            self._looking.release()

    def _load(self, version: str) -> PalateModel:
        return artifact.load(self._storage, self.name, version).warm()
