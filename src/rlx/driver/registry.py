"""Which kinds of device there are: backends found by the entry-point group `rlx.backends`.

An entry point's name is the kind, its value `package.module:attribute`, which must give a `Backend`. A distribution
that declares one adds a device without touching RLX:

    [project.entry-points."rlx.backends"]
    mydevice = "mypackage:backend"

Laziness. Nothing is searched or imported until a device is asked for, and then only the backend of that kind. Kinds
that RLX brings itself are known without a search, so they work from a source checkout too, and no other distribution
can take them over. A kind not known yet makes the registry search again: a package installed meanwhile is found.
Failure. Asking for a kind whose backend is broken or claimed twice raises, naming the distribution; listing leaves it
out, and `problems` tells why.
Threads. All functions may be called from any thread. Backends are imported outside any lock of ours.
"""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rlx.driver.backend import Backend
from rlx.driver.fork import renew_in_child
from rlx.errors import BrokenBackend, DeviceNotFound, DuplicateBackend, RLXError, nearest

GROUP = "rlx.backends"
BUILT_IN = {
    "cpu": "rlx.backends.cpu:backend",
    "reference": "rlx.backends.reference:backend",
    "webgpu": "rlx.backends.webgpu:backend",
    "metal": "rlx.backends.webgpu:metal",
    "vulkan": "rlx.backends.webgpu:vulkan",
    "dx12": "rlx.backends.webgpu:dx12",
}
_KIND = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Entry:
    """One claim to a kind: who makes it, and where the backend is."""

    kind: str
    value: str
    distribution: str


def installed_entries() -> list[Entry]:
    """Every claim by a distribution on the import path."""
    from importlib import metadata  # costs 15 ms, and most processes ask for a built-in kind

    return [
        Entry(point.name, point.value, point.dist.name if point.dist else "an unnamed distribution")
        for point in metadata.entry_points(group=GROUP)
    ]


class Registry:
    """Backends by kind. `registry` is the one that `Device` asks; tests make others."""

    def __init__(self, built_in: Mapping[str, str], search: Callable[[], Iterable[Entry]] = installed_entries) -> None:
        self._built_in = {kind: Entry(kind, value, "rlx") for kind, value in built_in.items()}
        self._search = search
        self._found: dict[str, list[Entry]] | None = None
        self._backends: dict[str, Backend] = {}
        self._added: set[str] = set()
        renew_in_child(self)

    def renew(self) -> None:
        """Make the lock anew; see `rlx.driver.fork`."""
        self._lock = threading.Lock()

    def kinds(self) -> tuple[str, ...]:
        """Every kind that is claimed, working or not: built-in ones first, then by name."""
        found = self._entries(again=True)
        return (*self._built_in, *sorted({*found, *self._added} - set(self._built_in)))

    def backend(self, kind: str) -> Backend:
        """The backend of a kind.

        Raises DeviceNotFound where nobody claims it, DuplicateBackend or BrokenBackend where the claim is no good.
        """
        backend = self._backends.get(kind)
        return backend if backend is not None else self._load(self._claim(kind))

    def add(self, backend: Backend) -> None:
        """Serve a kind with a backend that no distribution declares, in this process alone: for tests and notebooks.

        Raises BrokenBackend where it lacks a part of the protocol, DuplicateBackend where its kind is claimed already.
        """
        claim = Entry(getattr(backend, "kind", "?"), "Registry.add", "this process")
        _check(backend, claim)
        if claim.kind in self.kinds():
            raise DuplicateBackend(f"the kind {claim.kind!r} is claimed already", hint="give the backend another name")
        self._added.add(claim.kind)
        self._backends[claim.kind] = backend

    def remove(self, kind: str) -> None:
        """Forget a backend that was added. Buffers and programs on its devices stay as they are."""
        if kind in self._added:
            self._added.remove(kind)
            del self._backends[kind]

    def available(self) -> tuple[tuple[str, int], ...]:
        """(kind, ordinal) of every device whose backend works."""
        return tuple((b.kind, i) for b in self._working()[0] for i in range(b.device_count()))

    def problems(self) -> tuple[RLXError, ...]:
        """Why each claim that does not work does not."""
        return tuple(self._working()[1])

    def _working(self) -> tuple[list[Backend], list[RLXError]]:
        backends: list[Backend] = []
        problems: list[RLXError] = []
        for kind in self.kinds():
            try:
                backends.append(self.backend(kind))
            except (BrokenBackend, DuplicateBackend) as error:
                problems.append(error)
        problems += [
            DuplicateBackend(
                f"distribution {entry.distribution!r} claims the kind {kind!r}, which RLX brings itself",
                where=f"entry point {kind} = {entry.value}",
                hint="its claim is ignored; give its backend another name",
            )
            for kind, built_in in self._built_in.items()
            for entry in self._entries().get(kind, ())
            if entry.value != built_in.value
        ]
        return backends, problems

    def _entries(self, *, again: bool = False) -> dict[str, list[Entry]]:
        found = self._found
        if found is None or again:
            found = {}
            for entry in self._search():
                if entry not in found.setdefault(entry.kind, []):
                    found[entry.kind].append(entry)
            self._found = found
        return found

    def _claim(self, kind: str) -> Entry:
        if kind in self._built_in:
            return self._built_in[kind]
        claims = self._entries().get(kind) or self._entries(again=True).get(kind)
        if not claims:
            close = nearest(kind, self.kinds())
            names = ", ".join(f"{k}:{i}" for k, i in self.available()) or "none"
            raise DeviceNotFound(
                f"no backend gives devices of kind {kind!r}",
                where=f"devices here: {names}",
                hint=f"did you mean {close!r}?" if close else f"install a package with an entry point in {GROUP!r}",
            )
        if len(claims) > 1:
            raise DuplicateBackend(
                f"the kind {kind!r} is claimed by {' and '.join(repr(c.distribution) for c in claims)}",
                where="; ".join(f"{c.distribution}: {c.value}" for c in claims),
                hint="uninstall all but one",
            )
        return claims[0]

    def _load(self, entry: Entry) -> Backend:
        module_name, colon, attribute = entry.value.partition(":")
        if not (colon and attribute and _KIND.fullmatch(entry.kind)):
            raise _broken(entry, "is not declared as kind = 'package.module:attribute', the kind in lower case")
        try:
            backend = importlib.import_module(module_name)
            for part in attribute.split("."):
                backend = getattr(backend, part)
        except Exception as error:
            raise _broken(entry, f"does not import: {type(error).__name__}: {error}") from error
        checked = _check(backend, entry)
        with self._lock:
            return self._backends.setdefault(entry.kind, checked)


def _check(backend: object, entry: Entry) -> Backend:
    """The object, if it is a backend of that kind. Raises BrokenBackend."""
    if not isinstance(backend, Backend):
        missing = [name for name in _REQUIRED if not hasattr(backend, name)]
        raise _broken(entry, f"is a {type(backend).__name__} without {', '.join(missing)}")
    if backend.kind != entry.kind:
        raise _broken(entry, f"calls itself {backend.kind!r}")
    return backend


def _broken(entry: Entry, why: str) -> BrokenBackend:
    return BrokenBackend(
        f"the backend {entry.kind!r} of distribution {entry.distribution!r} {why}",
        where=f"entry point {entry.kind} = {entry.value}",
        hint=f"repair or uninstall {entry.distribution!r}",
    )


_REQUIRED = ("kind", "compiler", "device_count", "properties", "memory", "target_key", "load")

#: What `Device` asks.
registry = Registry(BUILT_IN)
