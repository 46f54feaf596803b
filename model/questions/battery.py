"""Every question that is put to a model: LUMEN's templates to the letter, and our closed questions that are scored.

The answers are written and read by `model.questions.grammar` (differences, predictions) and `model.questions.answers`
(all others). `answer_of` and the parsers here dispatch by question.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from model.ontology import FindingConcept, FindingKind, ontology
from model.questions.answers import CHANGE_ANSWERS, DEGREE_CHANGES, VIEW_ANSWERS, YES_NO, parse_choice
from model.questions.vocabulary import finding_key, finding_name, normalise
from model.schema import ImageRole


class QuestionType(StrEnum):
    """The subject of a question. The first seven are the types of Medical-Diff-VQA, the rest are this project's."""

    ABNORMALITY = "abnormality"
    PRESENCE = "presence"
    VIEW = "view"
    LOCATION = "location"
    LEVEL = "level"
    TYPE = "type"
    DIFFERENCE = "difference"
    PREDICTION = "prediction"
    """Changes until the next image (LUMEN)."""
    PRIOR_PRESENCE = "prior_presence"
    """The same as presence, on the prior image."""
    CHANGE = "change"
    SIDE = "side"
    GRADE = "grade"
    PRIOR_SIDE = "prior_side"
    PRIOR_GRADE = "prior_grade"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question and, where it is closed, its allowed answers.

    key: type and finding, for example "presence/pleural_effusion"; "view/current"; unique in a battery.
    finding: ontology key, None where the question is about the whole image.
    allowed: the closed answers that are scored, None for an open question.
    image: the image that is asked about, None where the question is about both.
    needs_prior: cannot be asked without a prior image.
    alone: asked under a prefix that shows the current image only, because it was trained so (prediction, prior_only).
    """

    key: str
    type: QuestionType
    text: str
    finding: str | None = None
    allowed: tuple[str, ...] | None = None
    image: ImageRole | None = ImageRole.CURRENT
    needs_prior: bool = False
    alone: bool = False

    def parse(self, text: str) -> str | None:
        """The allowed answer that `text` gives; None where it gives none; raises ValueError for an open question."""
        if self.allowed is None:
            raise ValueError(f"{self.key} is an open question; its answer has a grammar of its own")
        return parse_choice(text, self.allowed)


# The closed questions: our own wording, short, and each names the image that is meant.
_CLOSED_TEXT: Mapping[QuestionType, str] = {
    QuestionType.PRESENCE: "is there {name} in the current image?",
    QuestionType.PRIOR_PRESENCE: "is there {name} in the prior image?",
    QuestionType.CHANGE: "how did {name} change from the prior to the current image?",
    QuestionType.SIDE: "which side is {name} on in the current image?",
    QuestionType.PRIOR_SIDE: "which side is {name} on in the prior image?",
    QuestionType.GRADE: "how severe is {name} in the current image?",
    QuestionType.PRIOR_GRADE: "how severe is {name} in the prior image?",
    QuestionType.PREDICTION: "how will {name} change from the current to the next image?",
}
_ALLOWED: Mapping[QuestionType, Callable[[], tuple[str, ...]]] = {
    QuestionType.PRESENCE: lambda: YES_NO,
    QuestionType.PRIOR_PRESENCE: lambda: YES_NO,
    QuestionType.CHANGE: lambda: CHANGE_ANSWERS,
    QuestionType.SIDE: lambda: ontology().sides,
    QuestionType.PRIOR_SIDE: lambda: ontology().sides,
    QuestionType.GRADE: lambda: ontology().grades,
    QuestionType.PRIOR_GRADE: lambda: ontology().grades,
    QuestionType.PREDICTION: lambda: CHANGE_ANSWERS,
}
_ABOUT: Mapping[QuestionType, ImageRole | None] = {
    QuestionType.PRIOR_PRESENCE: ImageRole.PRIOR,
    QuestionType.PRIOR_SIDE: ImageRole.PRIOR,
    QuestionType.PRIOR_GRADE: ImageRole.PRIOR,
    QuestionType.CHANGE: None,
}

# The open questions, to the letter (Medical-Diff-VQA 1.0.1) but for PREDICTION, which LUMEN does not print.
DIFFERENCE_TEXT = "what has changed compared to the reference image?"
PREDICTION_TEXT = "what will have changed in the next image?"
PREDICTION_BOTH_TEXT = "looking ahead from the reference image, what will have changed in the next image?"
"""The setting prediction_inputs = both: the next image is shown as well, which makes it difference in other words."""

LONG_TAG = "in one or two sentences, "
"""Put before an open question that wants a report-style answer (the length tag of the recipe)."""

TEMPLATES: Mapping[QuestionType, tuple[str, ...]] = {
    QuestionType.ABNORMALITY: (
        "what abnormalities are seen in this image?",
        "what abnormalities are seen in the {location}?",
        "is there evidence of any abnormalities in this image?",
    ),
    QuestionType.PRESENCE: (
        "is there evidence of {finding} in this image?",
        "is there {finding}?",
        "is there {finding} in the {location}?",
        "is the {finding} bilateral?",
    ),
    QuestionType.VIEW: ("which view is this image taken?", "is this PA view?", "is this AP view?"),
    QuestionType.LOCATION: (
        "where in the image is the {finding} located?",
        "where is the {finding}?",
        "is the {finding} located on the left side or right side?",
    ),
    QuestionType.LEVEL: ("what level is the {finding}?",),
    QuestionType.TYPE: ("what type is the {finding}?",),
    QuestionType.DIFFERENCE: (DIFFERENCE_TEXT, "what has changed in the {location} area?"),
    QuestionType.PREDICTION: (
        PREDICTION_TEXT,
        "what will have changed in the {location} area in the next image?",
        PREDICTION_BOTH_TEXT,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedQuestion:
    """The contents of a question in LUMEN's templates.

    form: place of its template in `TEMPLATES[type]`. finding: ontology key. location: as it stands in the question.
    """

    type: QuestionType
    form: int
    finding: str | None = None
    location: str | None = None


def lumen_question(
    type: QuestionType, form: int = 0, *, finding: str | None = None, location: str | None = None
) -> str:
    """A question of the LUMEN battery, written from its template.

    Raises KeyError for a finding that the ontology does not hold, ValueError where the template needs a value that is
    not given or has no place for one that is.
    """
    template = TEMPLATES[type][form]
    values = {"finding": finding_name(finding) if finding is not None else None, "location": location}
    for field, value in values.items():
        if (f"{{{field}}}" in template) != (value is not None):
            raise ValueError(f"template {template!r} and {field}={value!r} do not fit")
    return template.format(**values)


def parse_question(text: str) -> ParsedQuestion | None:
    """Read a question of the LUMEN battery (length tag or not); None for no template or an unknown finding."""
    question = normalise(text).removeprefix(normalise(LONG_TAG)).lstrip(", ")
    for type, form, pattern in _PATTERNS:
        match = pattern.fullmatch(question)
        if match is None:
            continue
        values = match.groupdict()
        finding = values.get("finding")
        key = finding_key(finding) if finding is not None else None
        # An unknown finding may be a known one under a longer template: the next pattern is tried.
        if finding is None or key is not None:
            return ParsedQuestion(type=type, form=form, finding=key, location=values.get("location"))
    return None


def _pattern(template: str) -> re.Pattern[str]:
    pattern = re.escape(normalise(template.replace("{", "<").replace("}", ">")))
    return re.compile(pattern.replace("<finding>", "(?P<finding>.+?)").replace("<location>", "(?P<location>.+?)"))


# Longer templates first: "is there X in the Y?" must be tried before "is there X?".
_PATTERNS = sorted(
    ((type, form, _pattern(text)) for type, texts in TEMPLATES.items() for form, text in enumerate(texts)),
    key=lambda entry: -len(entry[2].pattern),
)


def closed_question(type: QuestionType, finding: str) -> Question:
    """One of our scored questions about one finding; raises KeyError for an unknown finding or a type without one."""
    return Question(
        key=f"{type.value}/{finding}",
        type=type,
        finding=finding,
        text=_CLOSED_TEXT[type].format(name=finding_name(finding)),
        allowed=_allow_answers(type, finding),
        image=_ABOUT.get(type, ImageRole.CURRENT),
        needs_prior=type in _ABOUT,
        alone=type is QuestionType.PREDICTION,
    )


def _allow_answers(type: QuestionType, finding: str) -> tuple[str, ...]:
    """The answers that make sense: what has no degree (a tube, a fracture) comes, stays or goes, but grows no worse."""
    answers = _ALLOWED[type]()
    if type in (QuestionType.CHANGE, QuestionType.PREDICTION) and not ontology().findings[finding].graded:
        return tuple(answer for answer in answers if answer not in DEGREE_CHANGES)
    return answers


def view_question(image: ImageRole = ImageRole.CURRENT) -> Question:
    """The question for the view of the current or the prior image."""
    return Question(
        key=f"{QuestionType.VIEW.value}/{image.value}",
        type=QuestionType.VIEW,
        text=f"which view is the {image.value} image?",
        allowed=VIEW_ANSWERS,
        image=image,
        needs_prior=image is ImageRole.PRIOR,
    )


def difference_question() -> Question:
    """LUMEN's open question on the pair."""
    return Question(
        key=QuestionType.DIFFERENCE.value,
        type=QuestionType.DIFFERENCE,
        text=DIFFERENCE_TEXT,
        image=None,
        needs_prior=True,
    )


def prediction_question() -> Question:
    """The open question on what comes next, asked of the current image alone."""
    return Question(key=QuestionType.PREDICTION.value, type=QuestionType.PREDICTION, text=PREDICTION_TEXT, alone=True)


def closed_types(concept: FindingConcept, *, with_prior: bool) -> tuple[QuestionType, ...]:
    """The closed questions that make sense of a finding: devices have no degree, midline findings no side."""
    types = [QuestionType.PRESENCE]
    if with_prior:
        types += [QuestionType.PRIOR_PRESENCE, QuestionType.CHANGE]
    if concept.lateral:
        types.append(QuestionType.SIDE)
    if concept.graded and concept.kind is FindingKind.FINDING:
        types.append(QuestionType.GRADE)
    return tuple(types)


def battery(findings: Sequence[str], *, with_prior: bool, prognosis: bool = False) -> tuple[Question, ...]:
    """The questions of the engine on one pair (or, without a prior, one image), grouped by finding in the given order.

    findings: ontology keys of the checkpoint; raises KeyError for one that is not in the ontology and ValueError for
    one given twice. prognosis: adds a prediction question for each finding and the open one.
    """
    if len(set(findings)) != len(findings):
        raise ValueError(f"a finding stands twice in the battery: {sorted(findings)}")
    questions = [view_question()]
    for key in findings:
        for type in closed_types(ontology().findings[key], with_prior=with_prior):
            questions.append(closed_question(type, key))
    if with_prior:
        questions.append(difference_question())
    if prognosis:
        questions += [closed_question(QuestionType.PREDICTION, key) for key in findings]
        questions.append(prediction_question())
    return tuple(questions)
