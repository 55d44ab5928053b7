from __future__ import annotations

from pathlib import Path

import pytest
import yaml

FILE = Path(__file__).resolve().parent.parent / "cluster.yaml"


@pytest.mark.ray
def test_ray_accepts_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(FILE.read_text()))
    validate_config(config)
    assert config["available_node_types"]["head"]["resources"] == {"CPU": 0}


@pytest.mark.ray
def test_ray_refuses_a_cluster_file_with_a_mistake() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(FILE.read_text()) | {"max_wrokers": 4}
    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config(config))
