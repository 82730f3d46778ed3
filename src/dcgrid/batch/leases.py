"""Who works at which row: a lease file a try, kept alive by a heartbeat. No master is needed.

    claims/ID.0    the first worker that took the row
    claims/ID.1    the next one, after the first has died or was too long silent

Only one of several workers can create a name, so a row has one owner: that of the highest number.
A row that took three workers down is given up. Leases of a machine that is gone end by age, by the
clock of the storage; those of a process of this machine end with it.
"""

import json
import os
import secrets
import socket
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from dcgrid.batch.store import Store

LEASE_S = 60.0
"""A lease that was not touched for so long is over."""
MAX_TRIES = 3
"""Workers that may die at a row before it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, as leases name it."""

    host: str
    """Machine and boot, and what numbers its processes."""
    process: int
    started: str
    """When it was started, in ticks: numbers of processes come again."""
    starter: int = 0
    """Process of the same machine that watches it; 0: none."""

    @property
    def label(self) -> str:
        """What people read."""
        return f"process {self.process} on {self.host.split(' ')[0]}"


def this_process(starter: int = 0) -> Owner:
    """Return the owner that this process is."""
    own = os.getpid()
    return Owner(host=_host(), process=own, started=_started(own), starter=starter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A row that is this worker's."""

    id: str
    number: int
    """Of the lease file."""
    tries: int
    """Workers that took the row and did not end well, this one counted."""
    owner: Owner
    token: str
    """Tells this lease from every other."""
    is_begun: bool = False
    """True: the row runs; False: it was only taken for later, and the try does not count yet."""
    released: bool = False
    """True: the worker was stopped; the try does not count."""

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"claims/{self.id}.{self.number}"

    @property
    def content(self) -> bytes:
        """What the file holds."""
        return json.dumps(asdict(self)).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUp:
    """A row that has taken `MAX_TRIES` workers down."""

    tries: int
    owner: Owner | None
    """The last of them."""


class Leases:
    """Takes, keeps and ends the leases of one process; a context manager with a heartbeat in it.

    Args:
        store: Where they are.
        owner: This process.
        lease_s: See `LEASE_S`.
    """

    def __init__(self, store: Store, owner: Owner, lease_s: float = LEASE_S) -> None:
        self._store, self._owner, self._lease_s = store, owner, lease_s
        self._held: dict[str, Lease] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        """Start the heartbeat."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the heartbeat and release what is held: nobody has to wait for it."""
        self._end.set()
        self._thread.join()
        for lease in list(self._held.values()):
            if self.holds(lease):
                self._store.write(lease.file, replace(lease, released=True).content)

    def take(self, id_: str) -> Lease | GivenUp | None:
        """Take a row; None: it is another worker's."""
        last = self._last(id_)
        tries = 0
        if last is not None:
            lease, name = last
            if not self._is_over(lease, name):
                return None
            tries = 0 if lease is None else lease.tries - self._is_free(lease)
            if tries >= MAX_TRIES:
                return GivenUp(tries=tries, owner=None if lease is None else lease.owner)
        number = 0 if last is None else int(last[1].rsplit(".", 1)[1]) + 1
        own = Lease(
            id=id_,
            number=number,
            tries=tries + 1,
            owner=self._owner,
            token=secrets.token_hex(8),
        )
        if not self._store.create(own.file, own.content):
            return None
        with self._lock:
            self._held[id_] = own
        return own

    def begin(self, lease: Lease) -> None:
        """Say that a row runs from now on: if the worker dies, it may be of that row."""
        if self.holds(lease):
            self._store.write(lease.file, replace(lease, is_begun=True).content)

    def holds(self, lease: Lease) -> bool:
        """Return whether a row is still this worker's: it was not taken from it while it slept."""
        last = self._last(lease.id)
        return last is not None and last[0] is not None and last[0].token == lease.token

    def drop(self, lease: Lease) -> None:
        """End a lease whose row is done or failed; all earlier ones of the row go, too."""
        with self._lock:
            self._held.pop(lease.id, None)
        for number in range(lease.number, -1, -1):
            self._store.remove(f"claims/{lease.id}.{number}")

    def _last(self, id_: str) -> tuple[Lease | None, str] | None:
        """Return the last lease of a row with its file; None: there is none."""
        number = 0
        while self._store.exists(f"claims/{id_}.{number}"):
            number += 1
        if number == 0:
            return None
        name = f"claims/{id_}.{number - 1}"
        return _parsed(self._store.read(name)), name

    def _is_over(self, lease: Lease | None, name: str) -> bool:
        if lease is not None:  # else it is being written, or damaged
            owner = lease.owner
            if lease.released or (owner.host == self._owner.host and not _is_alive(owner)):
                return True
        age_s = self._store.age_s(name)
        return age_s is None or age_s > self._lease_s

    def _is_free(self, lease: Lease) -> bool:
        """Return True for a try that does not count: its worker was stopped from outside."""
        owner = lease.owner
        if lease.released or not lease.is_begun:
            return True
        # With its starter gone, too, somebody has killed the whole batch.
        starter = replace(owner, process=owner.starter, started="")
        return owner.host == self._owner.host and bool(owner.starter) and not _is_alive(starter)

    def _beat(self) -> None:
        while not self._end.wait(self._lease_s / 6):
            with self._lock:
                held = list(self._held.values())
            for lease in held:
                with suppress(OSError):  # a disk that is away; if it stays, the lease ends by age
                    self._store.touch(lease.file)


def _parsed(content: bytes | None) -> Lease | None:
    try:
        values: dict[str, Any] = json.loads(content or b"")
        return Lease(**{**values, "owner": Owner(**values["owner"])})
    except (ValueError, TypeError, KeyError):
        return None


def _host() -> str:
    """Return what a machine is known by: its name, its boot, and the namespace of its processes."""
    facts = [socket.gethostname()]
    with suppress(OSError):  # not outside Linux
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        facts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(facts)


def _started(process: int) -> str:
    """Return when a process was started; "": not known, as outside Linux."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return ""
    fields = text.rsplit(")", 1)[-1].split()
    return "" if fields[0] == "Z" else fields[19]


def _is_alive(owner: Owner) -> bool:
    """Return whether a process of this machine still runs."""
    if Path("/proc/self/stat").exists():
        found = _started(owner.process)
        return bool(found) and owner.started in ("", found)
    try:
        os.kill(owner.process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
