"""The view of a fleet, and the routes over replicas that answer, refuse or keep silent."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from loraland.adapters.names import ModelName
from loraland.errors import AdapterRejected
from loraland.serving.access.gate import Access
from loraland.serving.access.policy import Need, need_of
from loraland.serving.admin_routes import add_admin_routes
from loraland.serving.config import Limits
from loraland.serving.directory import Directory
from loraland.serving.fleet import BaseView, FleetView, Spot, merged
from loraland.serving.fleet_routes import add_fleet_routes
from loraland.serving.intake import Intake
from loraland.serving.pins import Pins
from loraland.serving.routes import create_app
from loraland.serving.sources import Sources
from loraland.storage import Storage


def told(replica):
    return {"replica": replica, "node": "n", "device": "cpu", "stats": {"slots": 2}, "adapters": []}


def test_who_is_silent_is_listed_with_the_reason_and_who_is_unknown_all_the_same():
    spots = [Spot("a", "n1", "running"), Spot("b", "n2", "running"), Spot("c", None, "starting")]
    view = merged("tiny", spots, [told("a"), told("new")])
    assert [(one.replica, one.state) for one in view.replicas] == [
        ("a", "running"), ("b", "running"), ("c", "starting"), ("new", "running"),
    ]  # fmt: skip
    errors = [one.error for one in view.replicas]
    assert errors == [None, "did not answer within 2 seconds", "takes no requests: starting", None]
    assert view.replicas[1].node == "n2"


REFUSAL = {"code": "adapter_rejected", "message": "rank 64"}


class Replicas:
    """A fleet that gives what it was told to."""

    def __init__(self):
        self.answers, self.orders = [{"replica": "a"}], []

    async def view(self):
        return FleetView(bases=[BaseView(base="tiny-llama", replicas=[])])

    async def order(self, verb, name, replica):
        self.orders.append((verb, str(name), replica))
        return self.answers

    async def examine(self, base, files):
        raise AdapterRejected("not asked for")


class Stage:
    def __init__(self, shop):
        self.fleet, storage = Replicas(), Storage.open(shop.uri)
        self.pins, self.registry = Pins(storage), shop.registry
        self.limits = Limits()
        self.directory = Directory(shop.registry, ["tiny-llama"], cache_s=3600)
        app = create_app(self, Access(self.limits))
        intake = Intake(Sources(()), shop.registry, ["tiny-llama"], self.fleet)
        add_fleet_routes(app, self.fleet, self.directory, self.pins)
        add_admin_routes(app, storage, self.directory, self.directory, self.fleet, intake)
        self.client = TestClient(app)

    def verb(self, verb, name, **query):
        return self.client.post(f"/v1/adapters/{name}/{verb}", params=query)

    def move(self, version, **more):
        body = {"version": version, **more}
        return self.client.put("/v1/aliases/tiny-llama/dates/prod", json=body)


@pytest.fixture
def shop(new_shop):
    shop = new_shop()
    shop.first, shop.second = shop.publish("dates", 1, "prod"), shop.publish("dates", 2)
    return shop


@pytest.fixture
def stage(shop):
    return Stage(shop)


def test_reading_needs_a_key_for_all_and_changing_an_admin_key():
    assert need_of("GET", "/v1/fleet") is Need.WIDE_KEY
    for method, path in (
        ("PUT", "/v1/aliases/a/b/c"), ("POST", "/v1/promotions"), ("POST", "/v1/adapters"),
        ("POST", "/v1/adapters/a/b@0123456789ab/pin"),
    ):  # fmt: skip
        assert need_of(method, path) is Need.ADMIN_KEY


def test_one_replica_that_refuses_is_told_beside_the_others(stage, shop):
    stage.fleet.answers = [{"replica": "a", "adapter": {}}, {"replica": "b", "error": REFUSAL}]
    done = stage.verb("load", shop.first)
    assert done.status_code == 200
    assert [one["error"] for one in done.json()["replicas"]] == [None, REFUSAL]


def test_where_all_refuse_it_is_an_error_and_where_none_answers_another(stage, shop):
    stage.fleet.answers = [{"replica": one, "error": REFUSAL} for one in "ab"]
    done = stage.verb("load", shop.first)
    assert (done.status_code, done.json()["error"]["message"]) == (400, "rank 64")
    stage.fleet.answers = []
    assert stage.verb("load", shop.first).status_code == 503
    told = stage.verb("load", shop.first, replica="x").json()
    assert told["error"]["code"] == "replica_not_found"


def test_a_pin_is_kept_for_replicas_to_come_unless_those_that_run_refuse_it(stage, shop):
    stage.verb("pin", shop.first)
    assert stage.pins.of("tiny-llama") == [shop.first]
    stage.verb("unpin", shop.first)
    assert stage.pins.of("tiny-llama") == []
    stage.fleet.answers = [{"replica": "a", "error": REFUSAL}]
    assert stage.verb("pin", shop.first).status_code == 400
    assert stage.pins.of("tiny-llama") == []
    stage.fleet.answers = []
    assert stage.verb("pin", shop.first).status_code == 503
    assert stage.pins.of("tiny-llama") == [shop.first]
    stage.fleet.answers = [{"replica": "a"}]
    stage.verb("unload", shop.first, replica="a")
    assert stage.pins.of("tiny-llama") == [shop.first]
    stage.verb("unload", shop.first)
    assert stage.pins.of("tiny-llama") == []


def test_an_alias_moves_after_its_version_is_loaded_and_this_gateway_follows_at_once(stage, shop):
    def stands_for():
        return stage.client.get("/v1/models/tiny-llama/dates:prod").json()["id"]

    assert stands_for() == str(shop.first)
    told = stage.move(shop.second.version).json()
    assert (told["previous"], told["model"]) == (shop.first.version, str(shop.second))
    assert stage.fleet.orders == [("load", str(shop.second), None)]
    assert stands_for() == str(shop.second)  # though names are remembered for an hour here
    stage.move(shop.first.version, load=False)
    assert len(stage.fleet.orders) == 1


def test_an_alias_does_not_move_to_a_version_that_a_replica_refuses(stage, shop):
    stage.fleet.answers = [{"replica": "a"}, {"replica": "b", "error": REFUSAL}]
    assert stage.move(shop.second.version).status_code == 400
    assert stage.registry.find("tiny-llama/dates:prod") == shop.first
    stage.fleet.answers = []  # nothing runs: the alias is the registry's own affair
    assert stage.move(shop.second.version).status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"version": "000000000000"}, "model_not_found"),
        ({"version": "../../etc"}, "invalid_model_name"),
        ({"version": 3}, "invalid_request"),
        ({}, "invalid_request"),
        ({"version": "000000000000", "force": True}, "invalid_request"),
    ],
)
def test_a_move_that_cannot_be_says_why(stage, body, code):
    answer = stage.client.put("/v1/aliases/tiny-llama/dates/prod", json=body)
    assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize("name", ["tiny-llama/dates@short", "Tiny/dates@0123456789ab", "a/b@c:d"])
def test_a_verb_on_what_is_no_version_is_refused(stage, name):
    for verb in ("load", "pin", "unpin", "unload"):
        assert stage.verb(verb, name).status_code in (400, 404)
    assert stage.fleet.orders == []


def test_a_promotion_without_answers_in_storage_moves_nothing(stage, shop):
    told = stage.client.post("/v1/promotions", json={"model": str(shop.second), "margin": 0.01})
    assert told.status_code in (404, 400)
    assert stage.registry.find("tiny-llama/dates:prod") == shop.first
    told = stage.client.post("/v1/promotions", json={"model": "tiny-llama"})
    assert told.json()["error"]["code"] == "model_not_found"
    assert ModelName.parse("tiny-llama").task is None


def test_nothing_may_be_brought_in_by_default(stage):
    told = stage.client.post("/v1/adapters", json={"source": "/etc"})
    assert (told.status_code, told.json()["error"]["code"]) == (403, "source_refused")


def test_the_fleet_is_told_as_json(stage):
    told = stage.client.get("/v1/fleet").json()
    assert told["bases"] == [{"base": "tiny-llama", "replicas": []}]
    assert "T" in told["at"]


def test_the_routes_are_in_the_schema(stage):
    paths = stage.client.get("/openapi.json").json()["paths"]
    assert {"/v1/fleet", "/v1/adapters", "/v1/promotions"} <= paths.keys()
    assert "AliasRequest" in str(paths["/v1/aliases/{base}/{task}/{alias}"])
