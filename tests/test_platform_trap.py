"""`platform/` is a source root beside a standard library module of that name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "platform" / "loraland"

# Packages and modules that must import without torch or Ray (docs/design.md).
PURE = ["tasks", "adapters", "evaluation.statistics", "training.recipe", "training.batches"]
PURE += ["training.schedule", "matrix.cell", "settings", "storage", "errors", "engine.protocol"]
PURE += ["engine.constraints", "engine.vocabulary"]
PURE += [
    "engine.blocks",
    "engine.scheduler",
    "engine.residency",
    "engine.books",
    "engine.line",
    "engine.refusals",
    "engine.seats",
    "engine.settings",
    "engine.canary",
    "engine.kernel_choice",
]
PURE += [
    f"matrix.{page}"
    for page in (
        "space",
        "ledger",
        "table",
        "forecast",
        "hardware",
        "workload",
        "memory",
        "collapse",
        "placement",
        "judging",
        "searched",
        "questions",
        "standings",
        "columns",
        "rescoring",
    )
]
PURE += ["lora.choice", "analysis", "report", "palate"]
PURE += [
    f"cellar.{page}"
    for page in ("tables", "database", "store", "opinions", "following", "host", "routes", "pages")
]
PURE += [f"strata.{page}" for page in ("model", "groups", "metrics", "images.umnist")]
PURE += ["training.group_sampling", "strata.images.published", "strata.images.recipe"]
PURE += [f"strata.{page}" for page in ("record", "shelf", "auditing", "picture", "page")]
PURE += ["training.groups", "strata.language.words", "strata.language.verbalisers"]
PURE += ["loadtest.command", "loadtest.cliff_svg"]  # with them all of it but the synthetic adapters
PURE += [f"recurrent.reference_{cell}" for cell in ("rnn", "vanilla", "augmented")]
PURE += ["recurrent.problems", "recurrent.recipe", "recurrent.unrolling", "recurrent.plot"]
PURE += [f"serving.access.{page}" for page in ("books", "keys", "permission", "policy", "visit")]
PURE += [f"serving.{page}" for page in ("sources", "intake", "pins", "seats", "keeping", "fleet")]
PURE += [f"serving.{page}" for page in ("persistence", "grouping", "timing", "pulse")]
PURE += [
    f"evaluation.{page}"
    for page in (
        "scoring",
        "published",
        "significance",
        "comparison",
        "leaderboard",
        "leaderboard_formats",
        "promotion",
        "exam",
        "parts",
        "endpoint",
        "endpoint_budget",
        "endpoint_replies",
        "endpoint_answers",
        "endpoint_asking",
    )
]


def test_the_standard_library_s_platform_is_found_from_the_repository_root() -> None:
    code = "import platform; print(platform.system(), platform.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    system, file = done.stdout.split()
    assert system in {"Linux", "Darwin"}
    assert not Path(file).is_relative_to(ROOT / "platform")
    assert not (ROOT / "platform" / "__init__.py").exists()


@pytest.mark.ray
def test_the_standard_library_s_platform_is_found_on_a_worker(ray_cluster: object) -> None:
    import ray

    @ray.remote(num_cpus=0.1)
    def look(root: str) -> tuple[str, str]:
        import os
        import platform
        import sys

        os.chdir(root)
        sys.path.insert(0, root)
        del sys.modules["platform"]
        import platform as again

        return platform.system(), str(again.__file__)

    system, file = ray.get(look.remote(str(ROOT)))
    assert system in {"Linux", "Darwin"}
    assert not Path(file).is_relative_to(ROOT / "platform")


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_import_neither_torch_nor_ray(module: str) -> None:
    code = (
        f"import pkgutil, importlib, sys; m = importlib.import_module('loraland.{module}')\n"
        "for found in pkgutil.walk_packages(getattr(m, '__path__', []), m.__name__ + '.'):\n"
        "    importlib.import_module(found.name)\n"
        "print(sorted({'torch', 'ray', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_arrows_between_packages_point_down_only() -> None:
    ground = {"errors", "settings", "storage", "local_copy"}
    below = {
        "tasks": set(),
        "bases": {"adapters"},  # model names
        "adapters": set(),
        "analysis": {"tasks"},
        "training": {"tasks", "bases", "adapters", "lora"},
        "lora": {"bases", "adapters"},
        "engine": {"bases", "adapters", "lora"},
        "evaluation": {"tasks", "bases", "adapters", "engine"},
        "matrix": {"tasks", "bases", "adapters", "training", "evaluation"},
        "serving": {
            *("bases", "adapters", "lora", "engine", "tasks"),
            *("evaluation", "matrix", "report", "strata"),  # what the web pages show
        },
        "report": {"tasks", "adapters", "evaluation", "matrix", "analysis"},
        "loadtest": {"tasks", "bases", "adapters", "lora", "training"},
        "recurrent": {"tasks", "bases", "adapters", "engine", "evaluation", "matrix"},
        "strata": {
            *("tasks", "bases", "adapters", "lora", "training"),
            *("evaluation", "matrix", "report"),  # runs cells; writes pages
        },
        "palate": {"tasks", "bases", "adapters", "evaluation"},  # of evaluation its statistics
        "cellar": {"palate", "serving"},
    }
    wrong = []
    for package, allowed in below.items():
        for file in sorted((SOURCES / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("loraland."):
                    target = (node.module or "").split(".")[1]
                    if target not in allowed | ground | {package}:
                        wrong.append(f"{file.relative_to(SOURCES)} imports {node.module}")
    assert wrong == []
