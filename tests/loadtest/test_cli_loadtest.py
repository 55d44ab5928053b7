"""The whole command over a scripted server: what is asked, what is told, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from loraland.adapters.registry import Registry
from loraland.cli import app
from loraland.loadtest import command
from loraland.settings import storage_uri
from loraland.storage import Storage
from tests.loadtest.stub import Stub, pieces

BASE = "tiny-smollm2-135m"  # of the catalogue, so that its vocabulary may be asked for
NAMES = [f"{BASE}/a{n}@{n:012x}" for n in range(6)]
LISTING = {"data": [{"id": BASE}, *({"id": name, "created": 1} for name in NAMES)]}
QUICK = ("--clients", "3", "--requests", "24", "--prompt-tokens", "7", "--new-tokens", "4")


def answers(body):
    """Whole answers; every second adapter is on the device."""
    tier = "device" if body["model"] in NAMES[::2] else "host"
    return [{"x-loraland-adapter-tier": tier}, *pieces(body["model"], body["max_tokens"])]


def call(*arguments):
    result = CliRunner().invoke(app, ["loadtest", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def report(*arguments):
    code, out, err = call(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def refused(*arguments):
    """The message of a command that fails."""
    code, _, err = call(*arguments)
    assert code == 1, err
    return " ".join(err.split())


def test_every_adapter_is_asked_prompts_of_exact_lengths_and_all_is_told(start):
    server = Stub(answers, LISTING)
    found = report(start(server), *QUICK)
    [run] = found["runs"]
    figures = run["figures"]
    touched, asked = server.bodies[:6], server.bodies[6:]
    assert Counter(body["model"] for body in touched) == dict.fromkeys(NAMES, 1)
    assert {body["max_tokens"] for body in touched} == {1}
    assert {body["model"] for body in asked} <= set(NAMES)
    assert {(len(body["prompt"]), body["max_tokens"]) for body in asked} == {(7, 4)}
    assert len(asked) == 24
    assert (figures["requests"], figures["answered"], figures["errors"]) == (18, 18, {})
    assert figures["generated_tokens"] == 18 * 4
    assert figures["hits"] + figures["misses"] == 18
    assert figures["full_length"] == 18
    assert sum(one["requests"] for one in figures["adapters"]) == 18
    assert figures["ttft"]["p50_ms"] <= figures["total"]["p50_ms"]
    assert found["setting"]["models"] == NAMES
    assert found["setting"]["warm_up"] == 6


def test_the_table_names_the_figures_and_the_client(start):
    code, out, _ = call(start(Stub(answers, LISTING)), *QUICK)
    assert code == 0
    for word in (
        "tokens/s",
        "first token",
        "- hit",
        "- miss",
        "per token",
        "p99",
        "a1@000000000001",
    ):
        assert word in out


def test_an_open_loop_asks_at_its_rate_and_popularity_follows_zipf(start):
    server = Stub(answers, LISTING)
    found = report(start(server), "--rate", 400, "--requests", 300, "--zipf", 2, "--new-tokens", 1)
    counted = Counter(body["model"] for body in server.bodies)
    assert counted[NAMES[0]] > counted[NAMES[1]] > counted[NAMES[4]]
    assert found["setting"]["clients"] is None
    assert found["runs"][0]["figures"]["answered"] == 268


def test_adapters_and_base_are_asked_the_same_in_turns(start):
    server = Stub(answers, LISTING)
    found = report(start(server), *QUICK, "--against-base", "--rounds", 2, "--cold")
    assert [(run["name"], run["round"]) for run in found["runs"]] == [
        ("adapters", 0), ("base", 0), ("base", 1), ("adapters", 1),
    ]  # fmt: skip
    runs = [server.bodies[n * 24 : (n + 1) * 24] for n in range(4)]
    prompts = [sorted(map(str, (body["prompt"] for body in run))) for run in runs]
    assert prompts[0] == prompts[1] != prompts[2] == prompts[3]
    assert {body["model"] for body in runs[1] + runs[2]} == {BASE}
    assert len(found["against_base"]["throughput"]["rounds"]) == 2


def test_the_cliff_sweeps_working_sets_and_is_drawn(start, tmp_path):
    fleet = {"bases": [{"base": BASE, "replicas": [{"stats": {"slots": 2}}]}]}
    url, svg, out = start(Stub(answers, LISTING, fleet)), tmp_path / "c.svg", tmp_path / "c.json"
    found = report(url, *QUICK, "--cliff", "0.5,1,3", "--svg", svg, "--out", out)
    assert [(p["share"], p["adapters"]) for p in found["cliff"]] == [(0.5, 1), (1, 2), (3, 6)]
    assert found["cliff"][0]["figures"]["misses"] == 0
    assert found["cliff"][2]["figures"]["misses"] > 0
    assert found["setting"]["slots"] == 2
    assert json.loads(out.read_text())["cliff"] == found["cliff"]
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")


def test_a_trace_is_replayed_with_its_adapters_and_lengths(start, tmp_path):
    trace = tmp_path / "t.csv"
    trace.write_text(
        "time,adapter,prompt_tokens,new_tokens\n"
        f"100,a1,9,2\n100.5,{NAMES[2]},5,3\n101,,4,1\n"
    )  # fmt: skip
    server = Stub(lambda body: pieces(body["model"], body["max_tokens"]), LISTING)
    found = report(start(server), "--trace", trace, "--speed", 100, "--cold")
    assert [(b["model"], len(b["prompt"]), b["max_tokens"]) for b in server.bodies] == [
        (f"{BASE}/a1", 9, 2), (NAMES[2], 5, 3), (BASE, 4, 1),
    ]  # fmt: skip
    assert found["runs"][0]["figures"]["answered"] == 3


def test_prompts_and_lengths_come_from_a_task(start):
    server = Stub(answers, LISTING)
    report(start(server), "--clients", 2, "--requests", 8, "--task", "dates", "--new-tokens", 9)
    asked = server.bodies[6:]
    assert all(isinstance(body["prompt"], str) and body["prompt"] for body in asked)
    assert {body["max_tokens"] for body in asked} == {9}
    server.bodies.clear()
    report(start(server), "--clients", 2, "--requests", 8, "--task", "dates")
    assert {body["max_tokens"] for body in server.bodies[6:]} == {12}  # a byte each, and the end


def test_a_key_is_sent_from_its_variable_and_told_nowhere(start, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", "sesame-open")
    server, out = Stub(answers, LISTING), tmp_path / "r.json"
    code, shown, err = call(start(server), *QUICK, "--key-env", "MY_KEY", "--out", out)
    assert code == 0
    assert {headers["authorization"] for headers in server.headers} == {"Bearer sesame-open"}
    assert "sesame" not in shown + err + out.read_text()
    assert "export MY_OTHER_KEY" in refused(start(server), "--key-env", "MY_OTHER_KEY")


def test_errors_are_counted_by_code_and_shown(start):
    def script(body):
        busy = json.dumps({"error": {"code": "engine_busy"}}).encode()
        return (
            (429, busy) if body["model"] == NAMES[1] and body["max_tokens"] > 1 else answers(body)
        )

    code, out, err = call(start(Stub(script, LISTING)), *QUICK, "--requests", 60)
    assert code == 0
    assert "429 engine_busy" in err
    assert "a1@000000000001" in out


def test_a_model_that_does_not_answer_ends_the_test_before_its_load(start):
    refusal = (400, json.dumps({"error": {"code": "adapter_rejected"}}).encode())
    server = Stub(lambda body: refusal if body["model"] == NAMES[3] else answers(body), LISTING)
    message = refused(start(server), *QUICK)
    assert f"'{NAMES[3]}': 400 adapter_rejected" in message
    assert len(server.bodies) == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", 1, "--clients", 1], "one of rate"),
        (["--rate", 0], "give 0.001"),
        (["--clients", 99999], "clients is 99999; give 1 to 4096"),
        (["--requests", 10**9], "requests is 1e+09"),
        (["--zipf", 9], "exponent"),
        (["--adapters", 7], "6 adapters"),
        (["--base", "tony"], "no base 'tony'"),
        (["--cliff", "1,2"], "--slots"),
        (["--cliff", "1,2", "--slots", 4], "--synthetic 8"),
        (["--cliff", "x"], "such as 0.5,1,2,4"),
        (["--svg", "x.svg"], "--cliff"),
        (["--speed", 0], "speed is 0"),
        (["--task", "dats"], "did you mean 'dates'"),
        (["--trace", "no.csv"], "no trace"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_with_what_can(start, arguments, words):
    server = Stub(answers, LISTING)
    assert words in refused(start(server), *arguments)
    assert server.bodies == []


def test_a_server_that_is_not_there_is_named():
    assert "loraland serve" in refused("http://127.0.0.1:9")
    assert "begins with http" in refused("127.0.0.1:8000")


def test_synthetic_adapters_that_the_server_does_not_see_are_told_and_removed(
    start, tiny_folders, monkeypatch
):
    monkeypatch.setattr(command, "LISTED_PAUSE_S", 0)
    message = refused(
        start(Stub(answers, LISTING)), "--synthetic", 2, "--precision", "fp32",
        "--base-folder", tiny_folders["llama"],
    )  # fmt: skip
    assert "LORALAND_STORAGE" in message
    assert Registry(Storage.open(storage_uri())).list() == []


@pytest.mark.slow
def test_ctrl_c_gives_the_report_so_far(start, tmp_path):
    never, out = asyncio.Event(), tmp_path / "r.json"
    served = []

    def script(body):
        served.append(body)
        whole = answers(body)
        return [*whole[:2], never] if len(served) > 12 else whole

    url = start(Stub(script, LISTING))
    command = [sys.executable, "-m", "loraland.cli", "loadtest", url, "--cold", "--warm-up", "0"]
    command += ["--clients", "3", "--new-tokens", "4", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": "platform"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while len(served) < 15:
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    found = json.loads(out.read_text())
    assert found["interrupted"] is True
    assert found["runs"][0]["figures"]["answered"] == 12
    assert found["runs"][0]["figures"]["unfinished"] == 3
    assert "this is what there was" in err
