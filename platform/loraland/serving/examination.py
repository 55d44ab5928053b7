"""Holds an adapter that is not in the registry against the base of a replica, and lets it go again.

The same checks that any adapter passes before it is served: folder and card, precision and
fingerprint, shapes, and the canary on the very model.
"""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from loraland.adapters.admission import Limits, admit
from loraland.adapters.folder import read_card
from loraland.bases.loading import LoadedBase
from loraland.engine.protocol import Engine
from loraland.lora.weights import linears_of
from loraland.serving.intake import write_files


class Examiner:
    """The examiner of one replica."""

    def __init__(self, base: LoadedBase, engine: Engine, limits: Limits) -> None:
        """Examine for `base` by `engine`, within `limits`."""
        self._base, self._engine, self._limits = base, engine, limits
        self._linears = linears_of(base.model)

    async def examine(self, files: Mapping[str, bytes]) -> None:
        """Raises AdapterRejected unless the adapter in these files may be served here.

        The engine holds what it held before.
        """
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            await asyncio.to_thread(write_files, folder, dict(files))
            await asyncio.to_thread(
                admit,
                folder,
                base=self._base.entry.name,
                base_fingerprint=self._base.fingerprint,
                limits=self._limits,
                precision=self._base.precision,
                linears=self._linears,
            )
            # Under a name of its own: the same version may be held already, and must stay.
            name = f"{read_card(folder).name} (examined {uuid.uuid4().hex[:8]})"
            await self._engine.load(name, folder)
            await self._engine.unload(name)
