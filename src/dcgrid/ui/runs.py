"""A job on its way: in a thread of its own, with how far it is, and stopped when somebody says so.

One job is generated at a time; others wait for their turn and can be stopped while they do.
"""

import threading
import time

from dcgrid.api import PlannedJob, Result, Session, public_result
from dcgrid.io.progress import Moment, Tracker
from dcgrid.pipelines.job import GridJob

_LOOK_S = 0.1
"""Between looks whether the turn has come."""


class StoppedError(BaseException):
    """Somebody has stopped the job. Like an interrupt it is nothing that a pipeline may handle."""


class Run:
    """One job in a thread of its own, of which it is the `Progress`.

    Args:
        session: Generates it.
        job: What is asked.
        turn: Held by the job that is generated.
    """

    def __init__(self, session: Session, job: GridJob, turn: threading.Lock) -> None:
        self._session, self._job, self._turn = session, job, turn
        self._stop = threading.Event()
        self._tracker = Tracker()
        self._thread = threading.Thread(target=self._work, name="dcgrid ui run", daemon=True)
        self.began_s = time.monotonic()
        """When it was asked, by the monotonic clock."""
        self.moment: Moment | None = None
        """How far it is; None: another job is generated first."""
        self.notes: list[str] = []
        """Remarks and warnings, a sentence each."""
        self.planned: PlannedJob | None = None
        """What it does; None: its turn has not come."""
        self.result: Result | None = None
        """What it wrote; None: it has not ended, or not well."""
        self.error: BaseException | None = None
        """What ended it before it was done; `StoppedError`: somebody did."""
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """True: it has not ended."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End it at the next step, frame or file; what is half written goes."""
        self._stop.set()

    def join(self, seconds: float) -> None:
        """Wait for its end, but not longer than so."""
        self._thread.join(seconds)

    def start(self, stage: str, total: int | None = None, *, in_bytes: bool = False) -> None:
        """Take note of a new stage."""
        self._check()
        self.moment = self._tracker.start(stage, total, done=0, in_bytes=in_bytes)

    def update(self, done: int, total: int | None = None) -> None:
        """Take note of the steps that are done."""
        self._check()
        self.moment = self._tracker.now(done, total)

    def note(self, line: str) -> None:
        """Keep a remark."""
        self._check()
        self.notes.append(line)

    def warn(self, line: str) -> None:
        """Keep a warning."""
        self.note(f"warning: {line}")

    def _check(self) -> None:
        if self._stop.is_set():
            raise StoppedError

    def _work(self) -> None:
        try:
            while not self._turn.acquire(timeout=_LOOK_S):
                self._check()
            try:
                self.start("planning")
                self.planned = self._session.plan(self._job)
                plan = self.planned.plan
                self._tracker = Tracker(plan.stages, plan.as_json()["expected_s"])
                self.result = public_result(self._session.run_job(self._job, self))
            finally:
                self._turn.release()
        except BaseException as error:
            self.error = error
