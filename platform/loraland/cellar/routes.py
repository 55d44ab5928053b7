"""The JSON API and the page as a FastAPI application over a `Host`.

Everything that blocks runs on threads of its own. All but new people, health and the page needs a
person's token, and shows and changes that person alone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from fastapi.security import HTTPBearer
from starlette.responses import Response

from loraland import __version__
from loraland.cellar import bodies
from loraland.cellar.config import CellarLimits
from loraland.cellar.door import Door, add_errors, read_in_time
from loraland.cellar.host import Host
from loraland.cellar.pace import Pace
from loraland.cellar.pages import add_page
from loraland.cellar.store import REFUSED
from loraland.errors import InvalidKey
from loraland.palate.onboarding import MOST_CARDS
from loraland.palate.pricing import Objective
from loraland.palate.scoring import Wish
from loraland.serving.bodies import read_body
from loraland.serving.openapi import body, describe, errors
from loraland.serving.parameters import ToldRoute

THREADS = max(4, os.cpu_count() or 1)
MOST_PICKS = 50
MOST_FOUND = 50
MOST_WORDS = 200  # characters to look for

TOKEN = HTTPBearer(auto_error=False, scheme_name="token")  # told to /docs and clients
T = TypeVar("T")


class Desk:
    """Runs a host's work on threads, for people who may ask."""

    def __init__(self, host: Host, limits: CellarLimits) -> None:
        """Stand in front of a host."""
        self.host, self.limits = host, limits
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="cellar")
        self._people, self._new = Pace(limits.person_per_minute), Pace(limits.people_per_minute)

    async def apart(self, work: Callable[..., T], *args: Any) -> T:
        """The result of work that blocks."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)

    async def person(self, request: Request) -> str:
        """Who asks. Raises InvalidKey, RateLimited."""
        given = request.headers.getlist("authorization")
        kind, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if kind.lower() != "bearer":
            raise InvalidKey(REFUSED)
        person = await self.apart(self.host.person_of, token.strip())
        self._people.take(person)
        return person

    def count_new(self) -> None:
        """One new person. Raises RateLimited."""
        self._new.take("")


def create_app(host: Host, limits: CellarLimits | None = None) -> FastAPI:
    """The application; it holds no state but the pace of its callers."""
    desk = Desk(host, limits or CellarLimits())
    app = FastAPI(title="Grapevine, a reconstruction", version=__version__)
    app.add_middleware(Door, limits=desk.limits)
    add_errors(app)
    _add_open(app, desk)
    _add_people(app, desk)
    _add_items(app, desk)
    describe(app)
    add_page(app)
    return app


def _router(tag: str) -> APIRouter:
    return APIRouter(route_class=ToldRoute, tags=[tag], responses=errors())


def _whose(desk: Desk) -> Any:
    """A dependency that finds out who asks."""

    async def whose(request: Request, _: Annotated[Any, Depends(TOKEN)]) -> str:
        return await desk.person(request)

    return Depends(whose)


def _add_open(app: FastAPI, desk: Desk) -> None:
    router = _router("Server")

    @router.get("/health")
    async def health() -> bodies.Health:
        """Whether the server answers, and with which model."""
        return desk.host.health()

    @router.post("/v1/people", status_code=201)
    async def new_person() -> bodies.NewPerson:
        """A new person: a random id and a token, and nothing about anybody."""
        desk.count_new()
        return await desk.apart(desk.host.add_person)

    app.include_router(router)


def _add_people(app: FastAPI, desk: Desk) -> None:
    router, whose = _router("People"), _whose(desk)

    @router.delete("/v1/people/me", status_code=204)
    async def forget(person: str = whose) -> Response:
        """Delete this person and everything that was kept of them."""
        await desk.apart(desk.host.forget, person)
        return Response(status_code=204)

    @router.post("/v1/events", openapi_extra=body(app, bodies.EventsBody))
    async def events(request: Request, person: str = whose) -> bodies.Counted:
        """Keep what happened. Sent again under the same ids, it counts once."""
        sent = read_body(bodies.EventsBody, await read_in_time(request, desk.limits))
        return await desk.apart(desk.host.record, person, sent)

    @router.get("/v1/opinions")
    async def opinions(
        person: str = whose, n: Annotated[int, Query(ge=1, le=MOST_FOUND)] = 20
    ) -> bodies.FoundList:
        """What this person judged, the latest first."""
        return await desk.apart(desk.host.opinions, person, n)

    @router.get("/v1/palates")
    async def palates(person: str = whose) -> bodies.Palates:
        """All palates, and how much of each this person is."""
        return await desk.apart(desk.host.palates, person)

    app.include_router(router)


def _add_items(app: FastAPI, desk: Desk) -> None:
    router, whose = _router("Items"), _whose(desk)

    @router.get("/v1/cards")
    async def cards(
        person: str = whose, n: Annotated[int, Query(ge=1, le=MOST_CARDS)] = 8
    ) -> bodies.Cards:
        """Items to like or not, which tell palates apart."""
        return await desk.apart(desk.host.cards, person, n)

    @router.get("/v1/recommendations")
    async def recommendations(
        person: str = whose,
        n: Annotated[int, Query(ge=1, le=MOST_PICKS)] = 10,
        budget: Annotated[float | None, Query(gt=0, le=1e9, allow_inf_nan=False)] = None,
        budget_kind: Annotated[bodies.BudgetKind, Query()] = "hard",
        objective: Annotated[Objective, Query()] = "residual",
        list: Annotated[bodies.ListId | None, Query()] = None,
    ) -> bodies.Recommendations:
        """What to try next, and why. What is given out is kept as shown, once per `list`."""
        wish = Wish(n, budget, budget_kind, objective)
        return await desk.apart(desk.host.recommend, person, wish, list)

    @router.get("/v1/wines")
    async def search(
        q: Annotated[str, Query(min_length=1, max_length=MOST_WORDS)],
        person: str = whose,
        n: Annotated[int, Query(ge=1, le=MOST_FOUND)] = 10,
    ) -> bodies.FoundList:
        """Items whose titles hold all the words."""
        return await desk.apart(desk.host.search, person, q, n)

    @router.get("/v1/wines/{key}")
    async def wine(
        key: Annotated[str, Path(min_length=1, max_length=200)], person: str = whose
    ) -> bodies.Wine:
        """One item."""
        return await desk.apart(desk.host.wine, person, key)

    app.include_router(router)
