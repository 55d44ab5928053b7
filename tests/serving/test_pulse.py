"""Ready means that a real token came; healthy, that one came after the last pass that failed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from loraland.bases.tiny import load_tiny
from loraland.engine.batched import BatchedEngine
from loraland.engine.protocol import Finished
from loraland.errors import EngineBusy, EngineFailed, EngineStopped
from loraland.serving import pulse
from loraland.serving.pulse import Pulse


class Engine:
    """Gives what it is set to."""

    def __init__(self):
        self.failed, self.asked, self.generated, self.error, self.hangs = 0, 0, 1, None, False

    def stats(self):
        return SimpleNamespace(failed_passes=self.failed)

    def check_open(self):
        pass

    def submit(self, request):
        if self.error is not None:
            raise self.error
        self.asked += 1
        return self._events()

    async def _events(self):
        if self.hangs:
            await asyncio.Event().wait()
        yield Finished("length", 1, self.generated, 0.0, 0.0, 0.0)


def test_a_token_is_asked_for_at_the_start_and_after_a_failed_pass_only():
    async def run():
        engine = Engine()
        felt = Pulse(engine, (1,))
        for failed, asked in ((0, 1), (0, 1), (1, 2), (1, 2)):
            engine.failed = failed
            await felt.check()
            assert engine.asked == asked

    asyncio.run(run())


def test_a_model_without_a_token_is_not_ready_and_is_asked_again():
    async def run():
        engine = Engine()
        felt = Pulse(engine, (1,))
        for engine.generated, engine.error in ((0, None), (1, EngineFailed("NaN"))):
            with pytest.raises(EngineFailed):
                await felt.check()
        engine.error = None
        await felt.check()

    asyncio.run(run())


def test_one_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(pulse, "FIRST_S", 0.01)
    engine = Engine()
    engine.hangs = True
    with pytest.raises(EngineFailed, match=r"no token within 0\.01 seconds"):
        asyncio.run(Pulse(engine, (1,)).check())


def test_a_full_queue_is_no_illness_and_is_felt_the_next_time():
    async def run():
        engine = Engine()
        felt = Pulse(engine, (1,))
        engine.error = EngineBusy("full")
        await felt.check()
        engine.error = None
        await felt.check()
        assert engine.asked == 1

    asyncio.run(run())


def test_a_real_engine_is_felt_falls_ill_recovers_and_ends(tiny_folders, monkeypatch):
    async def run():
        engine = BatchedEngine.of(load_tiny("llama", tiny_folders["llama"]))
        felt = Pulse(engine, (5,))
        await felt.check()
        assert engine.stats().generated_tokens == 1

        compute = engine._runner.run
        monkeypatch.setattr(engine._runner, "run", lambda *_: 1 / 0)
        with pytest.raises(EngineFailed):
            await pulse.one_token(engine, (5,))
        with pytest.raises(EngineFailed):
            await felt.check()
        monkeypatch.setattr(engine._runner, "run", compute)
        await felt.check()
        await felt.check()
        assert engine.stats().generated_tokens == 2
        await engine.close()
        with pytest.raises(EngineStopped):
            await felt.check()

    asyncio.run(run())
