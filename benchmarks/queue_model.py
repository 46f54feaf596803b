"""A queueing model of a group (SimPy), fed by measured figures: waits for 1, 5 and 50 workers, and what bends first.

PYTHONPATH=. python benchmarks/queue_model.py [--model-seconds S] [--hours H]

A study arrives (a day has busy hours), waits for a worker, is decoded and answered, and its commits wait for the log
of the database. What is assumed and not measured is a field of `Assumptions`; docs/scaling.md says which is which.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

import simpy

DAY = 86_400.0
START = 8 * 3600.0
"""The simulated time of day begins before the busiest hours."""
HOURS = (1, 1, 1, 1, 1, 1, 2, 5, 9, 11, 11, 10, 8, 9, 10, 9, 7, 5, 3, 3, 2, 2, 2, 1)
"""Share of a day's studies in each hour: assumed, a hospital's usual shape. The busiest hour has 9.6 % of the day."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """One group."""

    studies_per_day: int
    workers: int
    model_seconds: float
    """The model's answer for one pair: of the model and its GPU; an assumption."""
    work_seconds: float = 0.5
    """Decoding, checks and reports on one core (docs/benchmarks.md, bench_study without the model)."""
    commits_per_study: int = 8
    """Transactions: two instances, completion, claim, result, two deliveries with proof (measured: counted)."""
    commit_seconds: float = 0.002
    """One commit that notifies, with fsync: they wait for each other (docs/adr/0022); measured 1 to 3 ms."""
    bulk_per_day: int = 0
    """Studies of a backfill, which go only where no routine study waits."""


@dataclass
class Group:
    """The simulated group and what was seen."""

    values: Assumptions
    environment: simpy.Environment = field(default_factory=lambda: simpy.Environment(initial_time=START))
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    waits: list[float] = field(default_factory=list)
    """Seconds from complete to answered, of routine studies."""
    bulk_done: int = 0
    busy: float = 0.0
    commit_waits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workers = simpy.PriorityResource(self.environment, self.values.workers)
        self.log = simpy.Resource(self.environment, 1)

    def run(self, hours: float) -> None:
        """Simulate so many hours from START on."""
        self.environment.process(self._arrivals())
        if self.values.bulk_per_day:
            self.environment.process(self._backfill())
        self.environment.run(until=START + hours * 3600)

    def _arrivals(self) -> Generator[Any, Any, None]:
        per_hour = [self.values.studies_per_day * share / sum(HOURS) for share in HOURS]
        while True:
            hour = int(self.environment.now % DAY // 3600)
            yield self.environment.timeout(self.dice.expovariate(per_hour[hour] / 3600))
            self.environment.process(self._study(priority=0))

    def _backfill(self) -> Generator[Any, Any, None]:
        """Bulk studies wait in a short queue of the simulation; the real one is a row each."""
        ahead = simpy.Resource(self.environment, 2 * self.values.workers)
        while True:
            place = ahead.request()
            yield place
            self.environment.process(self._study(priority=1, place=(ahead, place)))
            yield self.environment.timeout(DAY / self.values.bulk_per_day)

    def _study(self, *, priority: int, place: tuple[Any, Any] | None = None) -> Generator[Any, Any, None]:
        began = self.environment.now
        with self.workers.request(priority=priority) as turn:
            yield turn
            started = self.environment.now
            spread = self.dice.gammavariate(4.0, 0.25)  # mean 1, coefficient of variation 0.5
            yield self.environment.timeout((self.values.work_seconds + self.values.model_seconds) * spread)
            yield from self._commits()
            self.busy += self.environment.now - started
        if place is not None:
            place[0].release(place[1])
            self.bulk_done += 1
        else:
            self.waits.append(self.environment.now - began)

    def _commits(self) -> Generator[Any, Any, None]:
        """All commits of a study in one hold: the same load on the log, in longer pieces than the real ones."""
        asked = self.environment.now
        with self.log.request() as turn:
            yield turn
            self.commit_waits.append(self.environment.now - asked)
            yield self.environment.timeout(self.values.commits_per_study * self.values.commit_seconds)


def row(name: str, values: Assumptions, hours: float) -> str:
    """One line of the table."""
    group = Group(values)
    group.run(hours)
    ordered = sorted(group.waits)
    p95 = ordered[int(0.95 * len(ordered))] if ordered else float("nan")
    busy = group.busy / (hours * 3600 * values.workers)
    log = values.commits_per_study * values.commit_seconds * len(group.commit_waits) / (hours * 3600)
    bulk = f"{group.bulk_done / hours:,.0f}" if values.bulk_per_day else ""
    return (
        f"| {name} | {values.studies_per_day:,} | {values.workers} | {values.model_seconds:g} | "
        f"{statistics.median(ordered):.1f} | {p95:.1f} | {100 * busy:.0f} % | {100 * log:.1f} % | {bulk} |"
    )


def main() -> None:
    """Print the table of docs/scaling.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-seconds", type=float, default=3.0)
    parser.add_argument("--hours", type=float, default=3.0)
    options = parser.parse_args()
    print("| group | studies a day | workers | model s | p50 s | p95 s | workers busy | log busy | bulk an hour |")
    print("|---|---|---|---|---|---|---|---|---|")
    hospital = Assumptions(studies_per_day=250, workers=1, model_seconds=options.model_seconds)
    sites = replace(hospital, studies_per_day=5_000)
    for name, values in (
        ("one hospital", hospital),
        ("20 sites", replace(sites, workers=1)),
        ("20 sites", replace(sites, workers=2)),
        ("20 sites", replace(sites, workers=5)),
        ("20 sites and a backfill", replace(sites, workers=5, bulk_per_day=200_000)),
        ("50 workers and a backfill", replace(sites, workers=50, bulk_per_day=2_000_000)),
        ("a country", replace(sites, studies_per_day=100_000, workers=50)),
        ("a country, model 4 times as fast", replace(sites, studies_per_day=400_000, workers=50, model_seconds=0.75)),
    ):
        print(row(name, values, options.hours), flush=True)


if __name__ == "__main__":
    main()
