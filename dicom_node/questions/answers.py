"""The answer to a person's question, out of a stored result. Pure.

A closed question is answered by what the result states of the same finding: the scores of the question battery after
the report's rules. So an answer can never differ from the report, and costs no second look at the images
(docs/adr/0024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dicom_node.report.rules import MIN_BELIEF, MIN_POSSIBLE, Seen
from model.ontology import ontology
from model.questions.free_text import AskedKind, AskedQuestion, NotTaughtError
from model.questions.vocabulary import finding_name, join_words
from model.schema import Change, ImageRole

UNCERTAIN = "The model is not certain enough to say."
CHANGE_WORDS: Mapping[Change, str] = {
    Change.NEW: "new",
    Change.WORSENING: "larger or worse",
    Change.STABLE: "unchanged",
    Change.IMPROVING: "smaller or better",
    Change.RESOLVED: "no longer seen",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer in words.

    certainty: calibrated probability of what is said, 0..1; None where there is none (lists, abstentions, uncalibrated
    models). images: those that were looked at. regions: outlines as result.json has them, on the image asked about.
    """

    text: str
    certainty: float | None = None
    images: tuple[ImageRole, ...] = (ImageRole.CURRENT,)
    regions: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedFinding:
    """A stored result's statement on one finding; probabilities 0..1, None where the model gave none to rely on."""

    key: str
    seen: Seen
    probability: float
    prior_probability: float | None
    change: Change | None
    change_probability: float | None
    location: str | None
    level: str | None
    regions: tuple[dict[str, Any], ...]

    @property
    def side(self) -> str | None:
        """The side within the location, which may also name a zone."""
        words = (self.location or "").split()
        return next((side for side in ontology().sides if side in words), None)

    @property
    def description(self) -> str:
        """Degree, side and name, as far as they are known."""
        return " ".join(word for word in (self.level, self.side, finding_name(self.key)) if word)


def findings_of_result(values: Mapping[str, Any]) -> list[StatedFinding]:
    """The findings of a stored result.json, in its order."""
    return [_finding_of_values(finding) for finding in values.get("findings") or []]


def answer_of(asked: AskedQuestion, findings: Sequence[StatedFinding]) -> Answer:
    """Answer a question that was understood. Raises NotTaughtError where the result says nothing of the finding."""
    if asked.kind is AskedKind.ABNORMALITIES:
        return _abnormalities(findings)
    if asked.kind is AskedKind.DIFFERENCE:
        return _difference(asked, findings)
    finding = next((candidate for candidate in findings if candidate.key == asked.finding), None)
    if finding is None:
        raise NotTaughtError(f"this result says nothing of {finding_name(str(asked.finding))}")
    if asked.kind is AskedKind.CHANGE:
        return _change(asked, finding)
    if asked.image is ImageRole.PRIOR:
        return _presence_on_prior(finding)
    if asked.kind is AskedKind.SIDE:
        return _side(finding)
    if asked.kind is AskedKind.SEVERITY:
        return _severity(finding)
    return _presence(finding, asked.side)


def _finding_of_values(values: Mapping[str, Any]) -> StatedFinding:
    change = values.get("change")
    fallback = {"present": Seen.SEEN, "absent": Seen.NOT_SEEN}.get(str(values["presence"]), Seen.UNDECIDED)
    return StatedFinding(
        key=str(values["key"]),
        seen=Seen(values["seen"]) if values.get("seen") else fallback,
        probability=float(values["probability"]),
        prior_probability=values.get("prior_probability"),
        change=Change(change) if change is not None else None,
        change_probability=values.get("change_probability"),
        location=values.get("location"),
        level=values.get("level"),
        regions=tuple(values.get("regions") or ()),
    )


def _presence(finding: StatedFinding, side: str | None = None) -> Answer:
    name = finding_name(finding.key)
    if finding.seen is Seen.UNDECIDED:
        return Answer(text=UNCERTAIN)
    if finding.seen is Seen.NOT_SEEN:
        return Answer(text=f"No, {name} is not seen.", certainty=1.0 - finding.probability)
    if finding.seen is Seen.POSSIBLE:
        return Answer(text=f"Possibly: {finding.description} is possible.", certainty=finding.probability)
    regions = _on(finding, ImageRole.CURRENT)
    if side is None or finding.side == side or (finding.side == "bilateral" and side in ("left", "right")):
        return Answer(text=f"Yes, {finding.description} is seen.", certainty=finding.probability, regions=regions)
    if finding.side is None:
        text = f"{_capital(name)} is seen; the model does not say on which side."
    else:
        text = f"No; {name} is seen, and it is {finding.side}."
    return Answer(text=text, certainty=finding.probability, regions=regions)


def _presence_on_prior(finding: StatedFinding) -> Answer:
    name, images, belief = finding_name(finding.key), (ImageRole.PRIOR,), finding.prior_probability
    # Exactly one half is an even answer, which says nothing.
    if belief is None or belief == MIN_BELIEF:
        return Answer(text=UNCERTAIN, images=images)
    if belief > MIN_BELIEF:
        return Answer(text=f"Yes, {name} is seen on the prior image.", certainty=belief, images=images)
    if belief >= MIN_POSSIBLE:
        return Answer(text=f"Possibly: {name} is possible on the prior image.", certainty=belief, images=images)
    return Answer(text=f"No, {name} is not seen on the prior image.", certainty=1.0 - belief, images=images)


def _side(finding: StatedFinding) -> Answer:
    if finding.seen is not Seen.SEEN:
        return _presence(finding)
    name = _capital(finding_name(finding.key))
    text = f"{name} is {finding.side}." if finding.side else f"{name} is seen; the model does not say on which side."
    return Answer(text=text, certainty=finding.probability, regions=_on(finding, ImageRole.CURRENT))


def _severity(finding: StatedFinding) -> Answer:
    if finding.seen is not Seen.SEEN:
        return _presence(finding)
    name = _capital(finding_name(finding.key))
    text = f"{name} is {finding.level}." if finding.level else f"{name} is seen; the model does not say how severe."
    return Answer(text=text, certainty=finding.probability, regions=_on(finding, ImageRole.CURRENT))


def _change(asked: AskedQuestion, finding: StatedFinding) -> Answer:
    name, images = finding_name(finding.key), (ImageRole.PRIOR, ImageRole.CURRENT)
    if finding.change is Change.NOT_COMPARABLE or (finding.change is None and finding.seen is not Seen.NOT_SEEN):
        return Answer(text=UNCERTAIN, images=images)
    # Not seen now and no change: then it was not there before either.
    if finding.change is None:
        return Answer(text=f"{_capital(name)} is seen on neither image.", images=images)
    sentence = f"{name} is {CHANGE_WORDS[finding.change]}."
    if asked.expected:
        sentence = f"{'Yes' if finding.change.value in asked.expected else 'No'}, {sentence}"
    return Answer(
        text=_capital(sentence),
        certainty=finding.change_probability,
        images=images,
        regions=_on(finding, ImageRole.CURRENT),
    )


def _abnormalities(findings: Sequence[StatedFinding]) -> Answer:
    seen = [finding.description for finding in findings if finding.seen is Seen.SEEN]
    possible = [finding_name(finding.key) for finding in findings if finding.seen is Seen.POSSIBLE]
    undecided = [finding_name(finding.key) for finding in findings if finding.seen is Seen.UNDECIDED]
    sentences = [f"Seen: {join_words(seen)}."] if seen else []
    sentences += [f"Possible{'' if seen else ', none certain'}: {join_words(possible)}."] if possible else []
    sentences += [f"Neither seen nor excluded: {join_words(undecided)}."] if undecided else []
    return Answer(text=" ".join(sentences) or "None of the findings that this checkpoint may be asked is seen.")


def _difference(asked: AskedQuestion, findings: Sequence[StatedFinding]) -> Answer:
    images = (ImageRole.PRIOR, ImageRole.CURRENT)
    changes = asked.expected or tuple(change.value for change in CHANGE_WORDS if change is not Change.STABLE)
    clauses = [
        f"{finding_name(finding.key)} {CHANGE_WORDS[finding.change]}"
        for finding in findings
        if finding.change is not None and finding.change in CHANGE_WORDS and finding.change.value in changes
    ]
    unsure = [finding_name(finding.key) for finding in findings if finding.change is Change.NOT_COMPARABLE]
    text = (
        f"{_capital(join_words(clauses))}." if clauses else f"No {'such ' if asked.expected else ''}change is stated."
    )
    return Answer(text=f"{text} Not comparable: {join_words(unsure)}." if unsure else text, images=images)


def _on(finding: StatedFinding, role: ImageRole) -> tuple[dict[str, Any], ...]:
    return tuple(region for region in finding.regions if region.get("image") == role.value)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
