"""A closed question to a study, from its words to the kept answer: `make bench-ask`.

SQLite on the local disk, one study with a real result; each question is a transaction of its own, as over the API.
"""

from __future__ import annotations

import argparse
import datetime as dt
import statistics
import tempfile
import time
from pathlib import Path

from sqlalchemy import select

from dicom_node.index.tables.core import Study
from dicom_node.questions.ask import ask
from model.ontology import ontology
from tests.support.web_site import Site, running_site

QUESTIONS = 300
LIMIT_SECONDS = 1.0
"""The goal: 95 of 100 answers within this on two cores."""


def seconds_of_questions(site: Site, count: int) -> list[float]:
    """Wall time of each of `count` questions, findings in turn."""
    names = [finding.name for finding in ontology().findings.values()]
    taken = []
    for number in range(count):
        asked_at = site.clock.now + dt.timedelta(minutes=number)  # nobody may ask more than some in a minute
        text = f"Is there {names[number % len(names)]}?"
        started = time.perf_counter()
        with site.node.database.write() as session:
            study = session.scalars(select(Study).where(Study.study_instance_uid == site.study_instance_uid)).one()
            ask(session, study, text, author="benchmark", now=asked_at)
        taken.append(time.perf_counter() - started)
    return taken


def main() -> None:
    """Print the row for docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=QUESTIONS, help=f"questions to ask (default {QUESTIONS})")
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory() as folder, running_site(Path(folder)) as site:
        taken = sorted(seconds_of_questions(site, count))
    p95 = taken[int(0.95 * (len(taken) - 1))]
    print(
        f"closed question, {count} asked: median {statistics.median(taken) * 1000:.1f} ms, "
        f"p95 {p95 * 1000:.1f} ms, longest {taken[-1] * 1000:.1f} ms (goal: p95 {LIMIT_SECONDS:.0f} s)"
    )


if __name__ == "__main__":
    main()
