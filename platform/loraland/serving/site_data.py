"""The read-only JSON behind the web pages: tasks, cards, spaces, leaderboards, samples, audits.

Typed, bounded, errors in OpenAI's shape. What blocks runs on threads of its own, so that a large
board never takes the threads that names are looked up on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import APIRouter, FastAPI, Path, Query

from loraland.adapters.names import ModelName
from loraland.adapters.registry import Entry
from loraland.errors import StorageUnavailable, UnknownModel
from loraland.report.excerpt import Outcome
from loraland.serving.directory import ShortMemory
from loraland.serving.openapi import errors
from loraland.serving.parameters import ToldRoute
from loraland.serving.site import add_pages
from loraland.serving.site_models import (
    Board,
    CardView,
    SamplePage,
    SpaceLine,
    SpaceList,
    TaskDetail,
    TaskList,
)
from loraland.serving.site_strata import AuditDetail, AuditList, audit_detail, audit_list
from loraland.serving.site_studies import Studies
from loraland.serving.site_tasks import card_view, judged_on, task_detail, task_lines
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task

logger = logging.getLogger(__name__)

THREADS = 2  # readers of records and samples
BELIEVED_S = 2.0  # until storage is looked at again
EXAMPLES_S = 60.0  # until the examples of a task are
MOST_SAMPLES = 50  # in one answer
MOST_CHARACTERS = 200  # of a text to look for
T = TypeVar("T")

Name = Annotated[str, Path(max_length=64)]


class Names(Protocol):
    """The models that the caller may see."""

    async def resolve(self, text: str) -> ModelName:
        """See `Directory.resolve`."""
        ...

    async def entries(self) -> list[Entry]:
        """See `Directory.entries`."""
        ...


def add_site(app: FastAPI, storage: Storage, directory: Names) -> None:
    """Serve the pages and what they read of `storage` and of the models in `directory`."""
    readers = ThreadPoolExecutor(THREADS, thread_name_prefix="site")

    async def apart(work: Callable[..., T], *args: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(readers, work, *args)
        except OSError as error:
            if hasattr(error, "code"):  # one of ours
                raise
            logger.error("storage failed", exc_info=error)
            raise StorageUnavailable("storage cannot be read now; try again in a moment") from None

    router = APIRouter(prefix="/v1", route_class=ToldRoute, tags=["Web pages"], responses=errors())
    _add_model_data(router, storage, directory, apart)
    _add_study_data(router, Studies(storage), apart)
    _add_strata_data(router, storage, apart)
    app.include_router(router)
    add_pages(app)


Apart = Callable[..., Coroutine[Any, Any, Any]]  # runs a function on a reader's thread


def _add_model_data(router: APIRouter, storage: Storage, directory: Names, apart: Apart) -> None:
    async def look(key: str) -> TaskDetail:
        name, *samples = key.split("\n")
        found: TaskDetail = await apart(task_detail, name, storage, samples)
        return found

    details = ShortMemory(look, EXAMPLES_S, failed_s=BELIEVED_S, most=1000)

    @router.get("/tasks")
    async def tasks() -> TaskList:
        """The catalogue of tasks."""
        return TaskList(data=task_lines())

    @router.get("/tasks/{name}")
    async def task(name: Name) -> TaskDetail:
        """One task: its prompt, its columns, some held-out examples."""
        get_task(name)  # a name that is not known goes no further
        # By the samples that this caller may see, so that no other is shown what they hold.
        samples = judged_on(name, await directory.entries())
        return await details.get("\n".join([name, *samples]))

    @router.get("/cards/{name:path}")
    async def card(name: Annotated[str, Path(max_length=256)]) -> CardView:
        """The card of an adapter, by any of its names."""
        found = await directory.resolve(name)
        for entry in await directory.entries():
            if entry.name == found:
                return card_view(entry)
        raise UnknownModel(
            f"'{found}' has no card: it is a base, or not listed yet; GET /v1/models lists all"
        )


def _add_study_data(router: APIRouter, studies: Studies, apart: Apart) -> None:
    async def list_spaces(_: str) -> list[SpaceLine]:
        lines: list[SpaceLine] = await apart(studies.spaces)
        return lines

    async def look(name: str) -> Board:
        board: Board = await apart(studies.board, name)
        return board

    lines = ShortMemory(list_spaces, BELIEVED_S)
    boards = ShortMemory(look, BELIEVED_S, most=100)

    @router.get("/spaces")
    async def spaces() -> SpaceList:
        """All studies, and how far they are."""
        return SpaceList(data=await lines.get(""))

    @router.get("/spaces/{name}/leaderboard")
    async def leaderboard(name: Name) -> Board:
        """The cells of a study with scores, lifts and intervals, finished or not."""
        return await boards.get(name)

    @router.get("/spaces/{name}/cells/{cell_id}/samples")
    async def samples(
        name: Name,
        cell_id: Annotated[str, Path(max_length=64)],
        offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
        limit: Annotated[int, Query(ge=1, le=MOST_SAMPLES)] = 10,
        outcome: Outcome | None = None,
        q: Annotated[str, Query(max_length=MOST_CHARACTERS)] = "",
    ) -> SamplePage:
        """Answers of adapter and base to the same items; what the adapter broke comes first."""

        def read() -> SamplePage:
            return studies.samples(
                name, cell_id, offset=offset, limit=limit, outcome=outcome, text=q
            )

        page: SamplePage = await apart(read)
        return page


def _add_strata_data(router: APIRouter, storage: Storage, apart: Apart) -> None:
    async def list_all(_: str) -> AuditList:
        found: AuditList = await apart(audit_list, storage)
        return found

    async def look(audit_id: str) -> AuditDetail:
        found: AuditDetail = await apart(audit_detail, audit_id, storage)
        return found

    lines = ShortMemory(list_all, BELIEVED_S)
    audits = ShortMemory(look, BELIEVED_S, most=100)

    @router.get("/strata")
    async def strata() -> AuditList:
        """Audits of classifiers: how the worst stratum of each does."""
        return await lines.get("")

    @router.get("/strata/{audit_id}")
    async def audit(audit_id: Name) -> AuditDetail:
        """One audit: its strata with scores, words and examples, and a map of held-out items."""
        return await audits.get(audit_id)
