"""The choice follows the counts, and never picks what cannot do the work."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from loraland.lora.choice import LONG_ON_CPU, NEVER, Choice, Conditions, choose

ANY = st.builds(
    Conditions,
    device=st.sampled_from(["cpu", "cuda"]),
    gradients=st.booleans(),
    segments=st.none() | st.integers(1, 600),
    can_sample=st.booleans(),
    can_group=st.booleans(),
    has_triton=st.booleans(),
)
DECODING = Conditions("cpu", False, 32, can_sample=True, can_group=True, has_triton=False)


@given(ANY)
def test_what_is_chosen_can_be_done(given_: Conditions) -> None:
    choice = choose(given_)
    assert choice.rest != "sampled" or given_.can_sample
    assert choice.rest != "grouped" or given_.can_group
    assert choice.rest != "triton" or given_.has_triton
    if given_.segments is None:  # a loop would need to know the segments
        assert choice.loop_from == NEVER and choice.rest in {"triton", "gathered"}
    elif given_.gradients:
        assert choice.loop_from == NEVER and choice.rest in {"loop", "grouped"}


def test_many_short_segments_are_sampled_on_a_cpu_and_long_ones_looped() -> None:
    assert choose(DECODING) == Choice(LONG_ON_CPU, "sampled")
    assert choose(DECODING._replace(can_sample=False)).rest == "gathered"


def test_one_adapter_is_looped() -> None:
    assert choose(DECODING._replace(segments=1)) == Choice(1, "loop")


def test_training_loops_until_segments_are_many() -> None:
    training = DECODING._replace(gradients=True)
    assert choose(training._replace(segments=8)).rest == "loop"
    assert choose(training._replace(segments=200)).rest == "grouped"
    assert choose(training._replace(segments=200, can_group=False)).rest == "loop"


def test_a_gpu_uses_triton_where_it_is_installed() -> None:
    gpu = DECODING._replace(device="cuda", can_sample=False)
    assert choose(gpu).rest == "gathered"
    assert choose(gpu._replace(has_triton=True)).rest == "triton"


def test_choosing_needs_no_torch() -> None:
    code = "import sys, loraland.lora.choice; print({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
