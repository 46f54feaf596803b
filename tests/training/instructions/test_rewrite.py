"""Long answers: only what says the same findings and changes is kept, whoever wrote it; the sample page shows it."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import InferenceError
from model.questions.grammar import NOTHING, Event, EventKind, canonical, write_events
from model.remote.client import ServerClient
from model.remote.text_model import ServerText
from tests.support.published import random_events
from tests.support.text_server import text_server
from training.data.preview import write_preview
from training.instructions.rewrite import ModelWriter, RuleWriter, load_answers, read_back, rewrite, save_answers
from training.instructions.rewrite_journal import journal_of, rewrite_into
from training.instructions.streams import InstructionOptions, Stream
from training.readers.phantom import read_phantom_pairs
from training.records.drops import DataError, DropReport


@given(st.integers(0, 100_000), st.integers(0, 5))
def test_the_rule_writer_is_always_read_back(seed: int, style: int) -> None:
    events = canonical(random_events(random.Random(seed)))
    source = write_events(events)
    report = DropReport()
    accepted = rewrite([("r", source)], RuleWriter(style), report)
    assert report.dropped == Counter()
    assert read_back(accepted["r"]).events == frozenset(events)
    assert accepted == rewrite([("r", source)], RuleWriter(style), DropReport())


EDEMA_NEW = Event(kind=EventKind.NEW, finding="edema")
GONE = Event(kind=EventKind.RESOLVED, finding="pneumothorax")


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("There is new pulmonary edema.", {EDEMA_NEW}),
        ("Edema has developed while the pneumothorax has resolved.",
         {EDEMA_NEW, Event(kind=EventKind.RESOLVED, finding="pneumothorax")}),
        ("The edema, mild on the prior radiograph, is now severe.",
         {Event(kind=EventKind.LEVEL, finding="edema", before="mild", after="severe")}),
        ("Nothing has changed.", {NOTHING}),
    ],
)  # fmt: skip
def test_report_style_is_read(text: str, events: set[Event]) -> None:
    found = read_back(text)
    assert found.events == events
    assert found.doubtful == ()


@pytest.mark.parametrize(
    "text",
    [
        "There is no new edema.",
        "Edema is present.",
        "Edema is new and pneumothorax has resolved, as far as can be told.",
        "The edema has changed from mild to moderate to severe.",
        "Edema is unchanged.",
        "The edema and the effusion have changed from mild to severe.",
    ],
)
def test_what_could_mean_two_things_is_doubtful(text: str) -> None:
    assert read_back(text).events == frozenset()
    assert read_back(text).doubtful


def test_a_models_answers_are_kept_only_when_they_say_the_same(tmp_path: Path) -> None:
    def answer(prompt: str) -> str:
        statement = re.search(r"Statement: (.*)", prompt)
        assert statement is not None
        return {
            "edema": "Pulmonary edema has newly developed.",
            "hernia": "There is a new hernia and a new fracture.",
            "pneumonia": "The lungs look better.",
            "granuloma": "",
            "hematoma": "New hematoma. " * 60,
        }[statement[1].split(" finding of ")[1].split(" ")[0]]

    names = ("edema", "hernia", "pneumonia", "granuloma", "hematoma")
    sources = [(name, write_events([Event(kind=EventKind.NEW, finding=name)])) for name in names]
    report, seen = DropReport(), list[dict[str, Any]]()
    with text_server(answer, seen) as url, ServerClient(url) as client:
        writer = ModelWriter(ServerText(client, "writer-1"))
        accepted = rewrite([*sources, ("bad", "who knows.")], writer, report)
        assert "writer-1" in writer.name
    assert accepted == {"edema": "Pulmonary edema has newly developed."}
    assert report.dropped == Counter(
        {
            "long answer: says other findings than its source": 2,
            "long answer: empty": 1,
            "long answer: longer than two sentences": 1,
            "long answer: the source does not parse": 1,
        }
    )
    assert {body["temperature"] for body in seen} == {0}
    path = tmp_path / "long.json"
    save_answers(path, accepted, writer="writer-1", report=report)
    assert load_answers(path) == accepted
    path.write_text('{"answers": [1]}')
    with pytest.raises(DataError, match="holds no long answers"):
        load_answers(path)
    path.write_text("{")
    with pytest.raises(DataError, match="holds no long answers"):
        load_answers(path)


NEW_EDEMA = write_events([EDEMA_NEW])


def test_writer_that_refuses_one_answer_costs_that_answer_only() -> None:
    """A server that finds one request too long, or filters its answer, has not failed."""
    sources = [*((f"r{n}", NEW_EDEMA) for n in range(5)), ("long", write_events([GONE]))]
    report, seen = DropReport(), list[dict[str, Any]]()
    with (
        text_server(lambda prompt: 400 if "missing" in prompt else "New edema.", seen) as url,
        ServerClient(url) as client,
    ):
        accepted = rewrite(sources, ModelWriter(ServerText(client, "writer-1")), report)
    assert accepted == {f"r{n}": "New edema." for n in range(5)}
    assert report.dropped == Counter({"long answer: the writer gave none": 1})


def test_cut_run_goes_on_where_it_was_and_asks_nothing_twice(tmp_path: Path) -> None:
    out, seen = tmp_path / "long.json", list[dict[str, Any]]()
    sources = [(f"r{n}", NEW_EDEMA) for n in range(150)]
    gone_after = 100

    def answer(_: str) -> str | int:
        return "New edema." if len(seen) <= gone_after else 401

    with text_server(answer, seen) as url, ServerClient(url, connections=4) as client:
        writer = ModelWriter(ServerText(client, "writer-1"))
        with pytest.raises(InferenceError, match="status 401"):
            rewrite_into(out, sources, writer, DropReport())
        assert not out.exists()
        with journal_of(out).open("a") as file:
            file.write('{"id": "r1')  # as a power cut leaves it
        with pytest.raises(DataError, match=r"begun by writer-1 .* name another --out, or remove it"):
            rewrite_into(out, sources, RuleWriter(), DropReport())
        gone_after, before = 10_000, len(seen)
        report = DropReport()
        rewrite_into(out, sources, writer, report)
    assert len(seen) - before == 150 - 64, "the first batch was whole"
    assert load_answers(out) == {f"r{n}": "New edema." for n in range(150)}
    assert report.kept == 150
    assert not journal_of(out).exists()
    with pytest.raises(DataError, match="is there already"):
        rewrite_into(out, sources, RuleWriter(), DropReport())


def test_the_sample_page_shows_images_questions_and_what_the_loss_sees(tmp_path: Path) -> None:
    records = list(read_phantom_pairs(4, DropReport()))
    answers = {record.record_id: "No interval change since the prior radiograph." for record in records}
    report = DropReport()
    page = tmp_path / "preview.html"
    options = InstructionOptions(streams=frozenset(Stream), max_turns=4)
    shown = write_preview(records, options, page, report, data="phantom:4", samples=6, long_answers=answers)
    assert shown == 6
    text = page.read_text("utf-8")
    assert text.count('<section class="sample"') == 6
    assert text.count("data:image/png;base64,") >= 6
    assert '<span class="loss">' in text
    assert "&lt;|im_start|&gt;user" in text
    assert "&lt;image&gt;" in text
    for stream in Stream:
        assert f"<td>{stream.value}</td>" in text
    with pytest.raises(DataError, match="gives no conversation"):
        write_preview([], options, page, DropReport(), data="nothing")
