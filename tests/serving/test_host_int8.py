"""A host whose base computes in int8: the layers are others, the adapters the same."""

from __future__ import annotations

import asyncio

import pytest

from loraland.adapters.admission import Limits
from loraland.bases.inference import prepare_for_inference
from loraland.engine.canary import COARSE
from loraland.engine.making import make_engine
from loraland.engine.settings import EngineLimits
from loraland.errors import InvalidConfiguration
from loraland.serving.host import BaseHost


def test_an_int8_base_admits_and_loads_the_adapters_of_its_weights(new_shop, tmp_path):
    shop = new_shop()
    name = shop.publish("dates", 1)
    base = shop.base()
    try:
        prepare_for_inference(base, int8=True)
    except InvalidConfiguration as error:
        pytest.skip(error.message)

    async def run():
        engine = make_engine(base, EngineLimits(kv_tokens=2048), tolerance=COARSE)
        try:
            host = BaseHost(base, engine, shop.registry, tmp_path, Limits(max_rank=8))
            await engine.load(str(name), await host.prepare(name))
            assert [resident.version for resident in engine.residency()] == [str(name)]
        finally:
            await engine.close()

    asyncio.run(run())
