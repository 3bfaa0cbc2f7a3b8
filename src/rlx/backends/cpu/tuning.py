"""Autotuning: which schedule each product and convolution of a program runs fastest under, on this machine.

    lower the graph            what sites there are, and how often each is launched
    look for their records     a site that was measured before is not measured again
    other tiles, in turn       each candidate is a launch of the graph lowered under it, timed by itself (`trial`)
    other cuts of the winner   in turn
    winner against default     in fresh rounds; the default stays unless it is beaten clearly (`tournament`)

Answers. A schedule never changes an answer, and a candidate whose answer on random data differs from the default's in a
single bit is refused: a tuned program gives the bits of an untuned one.

Time. Sites with most work to do come first; those that have less than a hundredth of it are not measured. When
`Options.tune_seconds` are over, sites that were not measured keep the default and have no record.

Records are what was measured, as JSON can hold it, under parts that name all that the times depend on. Whoever compiles
keeps them (`rlx.driver.backend.TuningRecords`); one that says what is not a legal schedule here counts as absent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

from rlx.backends.cpu.host import cpu_name
from rlx.backends.cpu.records import nanoseconds
from rlx.backends.cpu.scheduled import Choice, Choices, ScheduledTemplates
from rlx.backends.cpu.tournament import Clock, Contender, confirm, play
from rlx.backends.cpu.trial import Candidate, Trial, candidates_of
from rlx.codegen.program import LoweredProgram
from rlx.codegen.target import Target
from rlx.driver import Device
from rlx.driver.backend import TuningRecords
from rlx.options import Options
from rlx.version import build_id

#: Sites with less than this share of the work are left alone.
_LEAST_SHARE = 0.01
#: Bytes of packed operands that a trial reads in turn, where the model has so many; and launches at most.
_PACKED_BYTES, _MOST_COPIES = 32 << 20, 64
#: Nanoseconds on one thread that one run of a trial should take, at least and at most, where copies decide it.
_LEAST_NS, _MOST_NS = 200_000, 20_000_000
#: Sites that are lowered, and measured, together.
_TOGETHER = 4
#: Seconds of measuring in one tournament, once everything is compiled.
_PLAY_S = 1.5

#: Lowers the graph under the templates.
Lower = Callable[[ScheduledTemplates], LoweredProgram]


@dataclass(frozen=True)
class Tuning:
    """schedules: site -> the winner, where it is not the default.

    rows: a fact sheet a site, for reports. left: sites that there was no time to measure.
    """

    schedules: dict[str, Choice]
    rows: list[dict[str, Any]]
    left: int


@dataclass(eq=False)
class _Site:
    """One site that is being measured.

    known: schedules and the launches that they make; the default stands first. best: the winner so far.
    times: seconds of a launch of those that ran, and how many launches were timed.
    """

    choices: Choices
    known: dict[Choice, Candidate]
    launches: int
    copies: int
    best: Choice
    times: dict[Choice, tuple[float, int]] = field(default_factory=dict)
    refused: list[Choice] = field(default_factory=list)

    @property
    def default(self) -> Choice:
        return self.choices.default

    @property
    def work(self) -> int:
        """Nanoseconds of all launches, roughly."""
        return self.launches * nanoseconds(self.known[self.default].launch.kernel.cost)


class Tuner:
    """Measures the sites of one graph."""

    def __init__(
        self,
        lower: Lower,
        target: Target,
        device: Device,
        options: Options,
        records: TuningRecords,
        *,
        clock: Clock = time.perf_counter,
    ) -> None:
        self._lower, self._target, self._device, self._options = lower, target, device, options
        self._records, self._clock = records, clock

    def tune(self) -> Tuning:
        """Measure what has no record yet, and keep what was found."""
        end = self._clock() + self._options.tune_seconds
        templates = self._templates({})
        candidates, launches = candidates_of(self._lower(templates), templates.sites)
        choices = templates.choices
        documents = {name: self._recorded(name, choices[name]) for name in candidates}
        before = {name for name, document in documents.items() if document is not None}
        packed = sum(c.packed_bytes * launches[name] for name, c in candidates.items())
        sites = {
            name: _Site(
                choices[name], {choices[name].default: c}, launches[name], _copies(c, packed), choices[name].default
            )
            for name, c in candidates.items()
        }
        least = _LEAST_SHARE * sum(site.work for site in sites.values())
        wanted = {n: s for n, s in sites.items() if n not in before and s.work >= least}
        names = sorted(wanted, key=lambda name: -wanted[name].work)
        for first in range(0, len(names), _TOGETHER):
            batch = {name: wanted[name] for name in names[first : first + _TOGETHER]}
            left = end - self._clock()
            if left <= 0:
                break
            documents |= self._measure(batch, self._clock() + left * min(1.0, 2 * _TOGETHER / (len(names) - first)))
        rows = [
            _row(sites[name], document, "record" if name in before else "compile" if document else "")
            for name, document in documents.items()
        ]
        schedules = {name: _read(choices[name], document["best"]) for name, document in documents.items() if document}
        chosen = {name: schedule for name, schedule in schedules.items() if schedule != choices[name].default}
        return Tuning(chosen, rows, sum(documents[name] is None for name in wanted))

    def _templates(self, schedules: Mapping[str, Choice]) -> ScheduledTemplates:
        return ScheduledTemplates(self._target, self._options.convolution, schedules)

    def _measure(self, sites: Mapping[str, _Site], end: float) -> dict[str, dict[str, Any]]:
        """The records of some sites, all that time allows until `end`, about."""
        self._stage(sites, lambda site: site.choices.other_tiles(), end, share=0.5)
        self._stage(sites, lambda site: site.choices.other_cuts(site.best), end, share=0.7)
        return {name: self._finish(name, site, end) for name, site in sites.items() if site.times}

    def _stage(
        self, sites: Mapping[str, _Site], others: Callable[[_Site], Sequence[Choice]], end: float, share: float
    ) -> None:
        """Let alternatives compete with the best of each site, within `share` of the time that is left."""
        now = self._clock()
        end = now + share * (end - now)
        wanted = {name: [s for s in others(site) if s not in site.known] for name, site in sites.items()}
        for turn in range(max(map(len, wanted.values()), default=0)):
            given = {name: schedules[turn] for name, schedules in wanted.items() if turn < len(schedules)}
            templates = self._templates(given)
            found, _ = candidates_of(self._lower(templates), templates.sites)
            for name, schedule in given.items():
                sites[name].known[schedule] = found[name]
        for done, (name, site) in enumerate(sites.items()):
            left = end - self._clock()
            if left > 0:
                site.best = self._compete(site, wanted[name], left / (len(sites) - done))

    def _compete(self, site: _Site, others: Sequence[Choice], seconds: float) -> Choice:
        """The fastest of default, best and others, as far as the seconds go."""
        end = self._clock() + seconds
        with ExitStack() as loaded:
            contenders: dict[Choice, Contender] = {}
            answer = b""
            for schedule in dict.fromkeys((site.default, site.best, *others)):
                if len(contenders) > 1 and self._clock() > end - seconds / 2:
                    break
                trial = loaded.enter_context(closing(self._trial(site, schedule)))
                answer = answer or trial.answer
                if trial.answer == answer:
                    contenders[schedule] = Contender(trial.run)
                else:
                    site.refused.append(schedule)
            winner = play(list(contenders.values()), min(_PLAY_S, end - self._clock()), self._clock)
        for schedule, contender in contenders.items():
            site.times[schedule] = (contender.typical, len(contender.seconds))
        return next(schedule for schedule, contender in contenders.items() if contender is winner)

    def _finish(self, name: str, site: _Site, end: float) -> dict[str, Any]:
        """Settle between the default and the best, and keep the record."""
        if site.best != site.default:
            with closing(self._trial(site, site.default)) as one, closing(self._trial(site, site.best)) as other:
                default, winner = Contender(one.run), Contender(other.run)
                better = confirm(default, winner, min(_PLAY_S, end - self._clock()), self._clock)
            for schedule, contender in ((site.default, default), (site.best, winner)):
                site.times[schedule] = (contender.typical, len(contender.seconds))
            if not better:
                site.best = site.default
        document = {
            "default": site.default.document(),
            "best": site.best.document(),
            "measured": [
                {"schedule": schedule.document(), "seconds": seconds, "launches": launches}
                for schedule, (seconds, launches) in sorted(site.times.items(), key=lambda item: item[1][0])
            ],
            "refused": [schedule.document() for schedule in site.refused],
        }
        self._records.keep(self._parts(name), document)
        return document

    def _trial(self, site: _Site, schedule: Choice) -> Trial:
        return Trial(site.known[schedule], site.copies, self._target, self._device, self._options)

    def _parts(self, site: str) -> dict[str, str]:
        """All that a site's times depend on, and its record is kept under."""
        return {
            "device": self._device.kind,
            "kernel": site,
            "target": self._target.name,
            "processor": cpu_name(),
            "threads": str(self._options.threads),
            "rlx": build_id(),
        }

    def _recorded(self, site: str, choices: Choices) -> Mapping[str, Any] | None:
        """The record of a site, where there is one and what it says is legal here."""
        document = self._records.find(self._parts(site))
        if document is None:
            return None
        try:
            times = _times(document, choices)
            legal = choices.allows(_read(choices, document["best"]))
            same = _read(choices, document["default"]) == choices.default
        except (KeyError, TypeError, ValueError):
            return None
        return document if legal and same and min(times.values()) > 0 else None


def _read(choices: Choices, document: Mapping[str, Any]) -> Choice:
    """A choice from what its `document` gave. Raises ValueError where it is none for this kernel."""
    return type(choices.default).of(document)


def _times(document: Mapping[str, Any], choices: Choices) -> dict[str, float]:
    """Seconds of a launch under the default and the best schedule. Raises as a document that is none makes it."""
    measured = {_read(choices, m["schedule"]): float(m["seconds"]) for m in document["measured"]}
    return {way: measured[_read(choices, document[way])] for way in ("default", "best")}


def _copies(candidate: Candidate, packed: int) -> int:
    """Launches of one trial. packed: bytes of the model's packed operands, each of which a run of it reads."""
    cost = nanoseconds(candidate.launch.kernel.cost)
    wanted = -(-_LEAST_NS // cost)
    if candidate.packed_bytes:
        wanted = max(wanted, min(packed, _PACKED_BYTES) // candidate.packed_bytes)
    return max(1, min(wanted, _MOST_NS // cost, _MOST_COPIES))


def _row(site: _Site, document: Mapping[str, Any] | None, measured: str) -> dict[str, Any]:
    """What a report says about a site. measured: when it was compiled ("compile"), before ("record"), or never ("")."""
    launch = site.known[site.default].launch
    best = site.default if document is None else _read(site.choices, document["best"])
    times = {} if document is None else _times(document, site.choices)
    return {
        "label": launch.kernel.label,
        "sizes": str(site.choices),
        "ops": list(launch.sources),
        "location": str(launch.location),
        "launches": site.launches,
        "default": str(site.default),
        "best": str(best),
        "default_seconds": times.get("default"),
        "best_seconds": times.get("best"),
        "measured": measured,
    }
