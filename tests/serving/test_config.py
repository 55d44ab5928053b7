"""The configuration of an application: defaults, refusals, and the entry points for `serve run`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from loraland.errors import UnknownBase
from loraland.serving.app import build
from loraland.serving.config import BaseSettings, Limits, ServingConfig

ROOT = Path(__file__).resolve().parents[2]


def test_the_default_is_the_embedded_base_in_nf4():
    (base,) = ServingConfig().bases
    assert (base.name, base.precision, base.folder) == ("smollm2-135m", "nf4", None)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: ServingConfig(bases=()), "at least 1"),
        (lambda: ServingConfig(bases=(BaseSettings(), BaseSettings())), "listed twice"),
        (lambda: ServingConfig(bases=(BaseSettings(max_waiting=255),)), "32 x 8 .*max_waiting"),
        (lambda: ServingConfig(limits=Limits(choices=9)), "max_waiting of smollm2-135m"),
        (lambda: BaseSettings(name="No Such"), "cannot be a base's name"),
        (lambda: BaseSettings(name="../x"), "cannot be a base's name"),
        (lambda: BaseSettings(precision="int3"), "precision"),
        (lambda: BaseSettings(max_adapter=3), "Extra inputs"),
        (lambda: BaseSettings(num_gpus=-1), "num_gpus"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_with_the_reason(make, reason):
    with pytest.raises(ValidationError, match=reason):
        make()


def test_an_unknown_base_is_told_when_the_application_is_built():
    with pytest.raises(UnknownBase, match="smollm2-135m"):
        build(ServingConfig(bases=(BaseSettings(name="smollm-135m"),)))


def test_serve_run_finds_an_application_and_a_builder():
    from ray.serve import Application
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary

    from serve_apps import lora_land

    assert isinstance(lora_land.app, Application)
    arguments = {"name": "smollm2-135m", "precision": "fp32", "num_cpus": "2", "max_adapters": "5"}
    built = call_user_app_builder_with_args_if_necessary(lora_land.build_app, arguments)
    assert isinstance(built, Application)
    with pytest.raises(ValidationError):
        call_user_app_builder_with_args_if_necessary(lora_land.build_app, {"nonsense": "1"})


def test_the_arguments_of_serve_run_become_the_settings_of_a_base(monkeypatch, tmp_path):
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
    from ray.serve.scripts import convert_args_to_dict

    from serve_apps import lora_land

    configured = []
    monkeypatch.setattr(
        lora_land, "build", lambda config: (configured.append(config), build(config))[1]
    )
    typed = (
        "name=mistral-7b num_gpus=1 num_cpus=0.5 precision=bf16 replicas=2 max_adapters=8 "
        f"max_rank=16 max_batch=4 max_waiting=300 storage={tmp_path}"
    )
    arguments = convert_args_to_dict(tuple(typed.split()))
    call_user_app_builder_with_args_if_necessary(lora_land.build_app, arguments)
    (config,) = configured
    assert config.storage == str(tmp_path)
    assert config.bases == (
        BaseSettings(
            name="mistral-7b", num_gpus=1.0, num_cpus=0.5, precision="bf16", replicas=2,
            max_adapters=8, max_rank=16, max_batch=4, max_waiting=300,
        ),
    )  # fmt: skip
    (settings,) = config.bases
    assert [type(settings.num_gpus), type(settings.max_adapters)] == [float, int]


@pytest.mark.parametrize(
    "wrong", ["num_gpus=one", "num_gpus=-1", "replicas=1.5", "precision=int3", "gpus=1"]
)
def test_an_argument_of_serve_run_that_cannot_be_is_refused_by_its_name(wrong):
    from ray.serve.scripts import convert_args_to_dict

    from serve_apps.lora_land import Arguments

    with pytest.raises(ValidationError, match=wrong.partition("=")[0]):
        Arguments.model_validate(convert_args_to_dict((wrong,)))


@pytest.mark.slow
def test_a_checkout_serves_without_being_installed_and_leaves_platform_alone():
    code = (
        "import platform, serve_apps.lora_land, loraland, sys; "
        "assert platform.system(); print(loraland.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "loraland" in done.stdout
