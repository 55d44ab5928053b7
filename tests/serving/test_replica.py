"""What a replica asks of its machine."""

from __future__ import annotations

import pytest

from loraland.serving import replica
from loraland.serving.config import BaseSettings


class Loaded(Exception):
    """Ends a replica's start once it was seen what it loads."""


@pytest.mark.parametrize(("num_gpus", "device"), [(0, "cpu"), (0.5, None), (1, None)])
def test_a_replica_without_a_gpu_never_takes_one(monkeypatch, tmp_path, num_gpus, device):
    asked = []

    def load_base(base, precision, device):
        asked.append((base.name, precision, device))
        raise Loaded

    monkeypatch.setattr(replica, "load_base", load_base)
    config = BaseSettings(name="mistral-7b", precision="bf16", num_gpus=num_gpus)
    with pytest.raises(Loaded):
        replica.Replica(config, str(tmp_path))
    assert asked == [("mistral-7b", "bf16", device)]
