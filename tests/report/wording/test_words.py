"""Wording of the reports: what they state, what they must never state, and that other readers understand the same."""

from __future__ import annotations

import dataclasses
import warnings

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.report.documents import build_documents
from dicom_node.report.render.html import as_html
from dicom_node.report.render.marks import finding_colour
from dicom_node.report.render.pair_picture import pair_picture
from dicom_node.report.render.sr_tree import tree_lines
from dicom_node.report.render.text import as_text
from dicom_node.report.result import result_json
from dicom_node.report.rules import EarlierStatement, Seen
from dicom_node.report.sr.fallback_classes import STEPS, variants
from dicom_node.report.sr.iod import content_items
from dicom_node.report.wording.catalogue import catalogue, languages
from dicom_node.report.wording.phrases import phrase
from dicom_node.report.wording.sections import SectionKey, sections
from model.schema import Change, Presence
from tests.support import report_cases as cases
from tests.support.report_cases import BATTERY, absent, finding, kinds, prediction, request

KINDS = kinds()


def _impressions(said: object) -> tuple[str, ...]:
    return sections(said)[0].sentences  # type: ignore[arg-type]


def test_the_impression_has_one_sentence_for_each_kind_of_change_in_order() -> None:
    order = [Change.RESOLVED, Change.STABLE, Change.IMPROVING, Change.WORSENING, Change.NEW]
    keys = ["central_line", "cardiomegaly", "edema", "consolidation", "pleural_effusion"]
    lines = _impressions(request(prediction(*(finding(k, c) for k, c in zip(keys, order, strict=True)))))
    assert lines == (
        "Demonstration, not for clinical use.",
        "New since 1 March 2026: pleural effusion.",
        "Worse since 1 March 2026: consolidation.",
        "Better since 1 March 2026: pulmonary edema.",
        "Seen on 1 March 2026, no longer seen: central venous line.",
        "Otherwise unchanged: cardiomegaly. No other finding that was asked for is seen.",
    )
    assert sections(KINDS["new"])[0].key is SectionKey.IMPRESSIONS


def test_without_a_prior_nothing_is_said_about_change() -> None:
    text = as_text(KINDS["no prior"]).lower()
    for word in ("new ", "worse", "unchanged", "stable", "improv", "resolved", "since"):
        assert word not in text, word
    assert "no earlier chest radiograph of this patient was found." in text


def test_an_open_question_forbids_to_say_that_nothing_changed() -> None:
    assert "No change since 1 March 2026. None of the 6 findings asked for is seen." in _impressions(KINDS["nothing"])
    assert not any("No change" in line for line in _impressions(KINDS["unsure"]))
    possible = dataclasses.replace(absent("atelectasis"), probability=0.4)
    assert _impressions(request(prediction(possible)))[1:] == (
        "One finding is possible, not certain: see Findings. No statement on change since 1 March 2026.",
        "Not seen: pleural effusion, pneumothorax, consolidation, pulmonary edema, cardiomegaly and endotracheal tube.",
    )


@pytest.mark.parametrize("language", languages())
@pytest.mark.parametrize("said", ["possible", "undecided", "omitted"])
def test_nothing_is_called_free_of_findings_while_something_is_open(said: str, language: str) -> None:
    """No opening that a radiologist would have to take back: neither in words nor in the coded summary."""
    open_ = dataclasses.replace(absent("consolidation"), probability=0.4 if said == "possible" else 0.2)
    if said == "undecided":
        open_ = dataclasses.replace(open_, presence=Presence.PRESENT)  # its own threshold is lower than one in four
    for others in ((), (finding("cardiomegaly", Change.STABLE),)):
        answer = prediction(open_, *others, unstated=("consolidation",) if said == "omitted" else ())
        one = request(answer, language=language)
        words, opening = catalogue(language), " ".join(_impressions(one))
        for key in ("none", "no_other", "no_change"):
            assert words.text(f"impression.{key}", count=6, date="1 March 2026") not in opening
        assert said == "omitted" or "consolidation" not in opening.lower(), "a name would be a headline"
        machine = str(build_documents(one)[1].dataset)
        assert "All algorithms succeeded; without findings" not in machine
        assert "Undetermined" in machine
        stated = {value["key"]: value for value in result_json(one)["findings"]}
        assert stated["consolidation"]["presence"] == "abstained"


@pytest.mark.parametrize("language", languages())
def test_a_critical_finding_that_is_only_possible_is_named_in_the_opening(language: str) -> None:
    words = catalogue(language)
    name = words.word("finding", "pneumothorax")
    possible = dataclasses.replace(absent("pneumothorax"), probability=0.34)
    opening = _impressions(request(prediction(possible), language=language))
    assert opening[1] == words.text("impression.possible_critical", findings=name)
    undecided = dataclasses.replace(possible, presence=Presence.PRESENT, probability=0.2)
    opening = _impressions(request(prediction(undecided), language=language))
    assert opening[1].startswith(words.text("finding_line.undecided", findings=name))


@pytest.mark.parametrize("language", languages())
def test_a_critical_finding_that_is_not_excluded_stands_behind_what_is_seen(language: str) -> None:
    """A checkpoint that can never exclude it would else open every report with it, and nobody would read that line."""
    words = catalogue(language)
    pneumothorax = dataclasses.replace(absent("pneumothorax"), presence=Presence.PRESENT, probability=0.2)
    seen = finding("consolidation", Change.NEW)
    opening = _impressions(request(prediction(pneumothorax, seen), language=language))
    line = words.text("finding_line.undecided", findings=words.word("finding", "pneumothorax"))
    places = {text: place for place, whole in enumerate(opening) for text in (line, "onsolid") if text in whole}
    assert places["onsolid"] < places[line]
    assert places[line] <= 3


@pytest.mark.parametrize(("others", "said"), [(1, "one other finding"), (2, "2 other findings")])
def test_what_is_not_excluded_is_said_in_one_sentence(others: int, said: str) -> None:
    keys = ["pneumothorax", "edema", "consolidation"][: others + 1]
    open_ = [finding(key, probability=0.2) for key in keys]
    undecided = [dataclasses.replace(each, presence=Presence.PRESENT) for each in open_]
    opening = " ".join(_impressions(request(prediction(*undecided))))
    assert f"Neither seen nor excluded: pneumothorax and {said} (see Findings)." in opening
    assert opening.count("excluded") == 1


def test_a_comparison_in_which_nothing_is_seen_says_so_of_both_films() -> None:
    """Some findings may not be judged: of the others the reader learns that they were not there before either."""
    unsaid = dataclasses.replace(absent("cardiomegaly"), presence=Presence.ABSTAINED)
    before = [dataclasses.replace(absent(key), prior_probability=0.05) for key in BATTERY if key != "cardiomegaly"]
    said = request(prediction(unsaid, *before, unstated=("cardiomegaly",)))
    assert any(line.startswith("Not seen, as on 1 March 2026: pleural effusion,") for line in _impressions(said))
    earlier = {"edema": EarlierStatement(seen=Seen.SEEN)}
    assert not any("as on" in line for line in _impressions(dataclasses.replace(said, earlier=earlier)))
    unknown = request(prediction(unsaid, unstated=("cardiomegaly",)))  # nothing is known of the prior
    assert not any("as on" in line for line in _impressions(unknown))


def test_dates_that_cannot_be_right_are_told() -> None:
    def text(**elements: str) -> str:
        header = cases.header("current", "20260310")
        for keyword, value in elements.items():
            setattr(header, keyword, value)
        return as_text(dataclasses.replace(KINDS["new"], current=dataclasses.replace(cases.CURRENT, header=header)))

    born_later = " ".join(text(PatientBirthDate="20300101").split())
    assert born_later.count("The birth date lies after the image was taken") == 2, "in the opening and the limitations"
    assert "younger than 18" not in born_later
    assert "lies in the future: 31 December 2099." in " ".join(text(StudyDate="20991231").split())
    assert "lies in the future" not in text()


def test_a_header_that_contradicts_the_picture_is_told_under_limitations() -> None:
    said = dataclasses.replace(KINDS["new"], header_contradictions=("BodyPartExamined says HAND",))
    limitations = " ".join(as_text(said).split("LIMITATIONS")[1].split())
    assert "its header says otherwise (BodyPartExamined HAND): check that it is the right image." in limitations


def test_a_change_of_too_little_certainty_is_not_called_incomparable() -> None:
    seen = finding("edema", Change.WORSENING, change_probability=0.41, regions=(cases.region(),))
    one = request(prediction(seen))
    assert "Seen, change since 1 March 2026 uncertain: pulmonary edema." in _impressions(one)
    assert "comparable" not in as_text(one)
    critical = request(prediction(finding("pneumothorax", Change.NOT_COMPARABLE)))
    assert "Critical: pneumothorax, change since 1 March 2026 uncertain." in _impressions(critical)


def test_a_finding_that_may_not_be_stated_is_not_called_not_seen() -> None:
    """On films of people the bundled checkpoint may not state the heart's size: 0.01 is no "not seen" then."""
    unsaid = dataclasses.replace(absent("cardiomegaly"), presence=Presence.ABSTAINED, probability=0.01)
    said = request(prediction(unsaid, unstated=("cardiomegaly",)))
    lines = [sentence for section in sections(said)[:2] for sentence in section.sentences]
    named = [line for line in lines if "cardiomegaly" in line]
    assert named == [
        "Not seen: pleural effusion, pneumothorax, consolidation, pulmonary edema and endotracheal tube. Not judged:"
        " cardiomegaly.",
        "Not judged: cardiomegaly. The figures measured on films of this kind allow no statement on them.",
    ]
    stated = {finding["key"]: finding for finding in result_json(said)["findings"]}
    assert (stated["cardiomegaly"]["presence"], stated["cardiomegaly"]["seen"]) == ("abstained", "no statement")
    assert "Probability" not in str(
        next(group for group in content_items(build_documents(said)[1].dataset) if "cardiomegaly" in str(group)[:900])
    )


@pytest.mark.parametrize("name", ["abstained", "refused"])
def test_no_result_names_no_finding(name: str) -> None:
    text = as_text(KINDS[name]).lower()
    assert "no automated result for this study" in text
    assert not any(word in text for word in ("effusion", "edema", "pneumothorax"))


def test_every_language_has_every_message() -> None:
    english = catalogue("en").messages
    for language in languages():
        other = catalogue(language).messages
        assert set(other) == set(english)
        for key in english:
            places = {part.split("}")[0] for part in english[key].split("{")[1:]}
            assert {part.split("}")[0] for part in other[key].split("{")[1:]} == places, key


def test_german_is_coded_as_german() -> None:
    said = dataclasses.replace(KINDS["new"], language="de-AT")
    reading = build_documents(said)[0].dataset
    language = reading.ContentSequence[0].ConceptCodeSequence[0]
    assert (language.CodeValue, language.CodingSchemeDesignator) == ("de", "RFC5646")
    assert "Neu seit 1. März 2026: mittelgroßer Pleuraerguss links" in as_text(said)


@pytest.mark.parametrize(
    ("key", "location", "level", "english", "german"),
    [
        ("pleural_effusion", "left", "mild", "small left pleural effusion", "kleiner Pleuraerguss links"),
        (
            "pneumothorax",
            "right apical",
            "severe",
            "large right apical pneumothorax",
            "großer Pneumothorax apikal rechts",
        ),
        (
            "consolidation",
            "right lower lobe",
            "",
            "right lower lobe consolidation",
            "Konsolidierung im Unterlappen rechts",
        ),
        ("atelectasis", "left base", "mild", "mild left basal atelectasis", "leichtgradige Atelektase basal links"),
        ("lung_opacity", "left lung", "", "left lung opacity", "Lungenverschattung links"),
        ("fracture", "right rib", "", "right rib fracture", "Fraktur einer Rippe rechts"),
        ("edema", "", "severe", "severe pulmonary edema", "hochgradiges Lungenödem"),
        ("chest_tube", "left", "", "left chest tube", "Thoraxdrainage links"),
        (
            "pleural_effusion",
            "right",
            "moderate to severe",
            "moderate to large right pleural effusion",
            "mittelgroßer bis großer Pleuraerguss rechts",
        ),
        ("lung_nodule", "right upper lung", "", "right upper lung nodule", "Lungenrundherd im Oberfeld rechts"),
    ],
)
def test_degree_and_place_are_worded_as_radiologists_do(
    key: str, location: str, level: str, english: str, german: str
) -> None:
    said = finding(key, location=location or None, level=level or None)
    assert phrase(said, catalogue("en")) == english
    assert phrase(said, catalogue("de")) == german


def test_what_is_critical_stands_before_what_is_new_and_a_device_behind_an_abnormality() -> None:
    said = prediction(
        finding("endotracheal_tube", Change.NEW),
        finding("pleural_effusion", Change.NEW),
        finding("pneumothorax", Change.WORSENING, location="right"),
    )
    assert _impressions(request(said))[1:3] == (
        "Critical: right pneumothorax, larger since 1 March 2026.",
        "New since 1 March 2026: pleural effusion and endotracheal tube.",
    )


def test_what_is_not_seen_is_named_together_with_the_largest_of_its_probabilities() -> None:
    rest = prediction(*(dataclasses.replace(absent(key), probability=0.031) for key in BATTERY[2:]))
    found = next(s for s in sections(request(rest)) if s.key is SectionKey.FINDINGS).sentences
    assert found == (
        "Not seen: pleural effusion, pneumothorax, consolidation, pulmonary edema, cardiomegaly and endotracheal tube"
        " (each 4% or less).",
    )


def test_what_the_report_opens_with_is_kept_with_the_result() -> None:
    assert result_json(KINDS["new"])["impressions"] == list(_impressions(KINDS["new"]))


def test_the_printed_report_fits_eighty_columns() -> None:
    for said in KINDS.values():
        for language in languages():
            lines = as_text(dataclasses.replace(said, language=language)).splitlines()
            assert max(map(len, lines)) <= 80


def test_values_in_a_page_are_escaped() -> None:
    header = cases.header("current", "20260310")
    header.PatientName = "<script>alert(1)</script>"
    page = as_html(dataclasses.replace(KINDS["new"], current=dataclasses.replace(cases.CURRENT, header=header)))
    assert "<script>" not in page
    assert "data:image/jpeg;base64," in page


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_has_its_values_and_its_picture(name: str) -> None:
    values = result_json(KINDS[name])
    assert {"prior", "findings", "prognosis", "abstained", "model"} <= set(values)
    assert (values["prior"] is None) == (KINDS[name].prior is None)
    assert pair_picture(KINDS[name]).width > 800


def test_the_picture_marks_what_changed_and_nothing_else() -> None:
    """An unchanged finding beside a new one is not outlined; where nothing changed, what is there is."""
    marked = (cases.region(),)
    new = finding("pleural_effusion", Change.NEW, regions=marked)
    stable = finding("cardiomegaly", Change.STABLE, regions=marked)

    def colours(said: object) -> set[str]:
        pixels = np.asarray(pair_picture(request(said)))[:660]  # type: ignore[arg-type]
        return {key for key in BATTERY if (pixels == finding_colour(key)).all(-1).sum() > 50}

    assert colours(prediction(new, stable)) == {"pleural_effusion"}
    assert colours(prediction(stable)) == {"cardiomegaly"}


def _groups(dataset: Dataset) -> dict[str, str]:
    """Finding → presence, of every measurement group that speaks of the current image, as highdicom reads it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = hd.sr.Comprehensive3DSR.from_dataset(dataset)
    found = {}
    for item in content_items(report.content[0]):
        if item.ConceptNameCodeSequence[0].CodeValue == "125007":
            codes = {i.name.value: i.value for i in item.ContentSequence if i.ValueType == "CODE"}
            if "705057003" in codes:
                found[codes["121071"].value] = codes["705057003"].meaning
    return found


@pytest.mark.parametrize("name", ["new", "worse", "unsure", "no prior"])
def test_highdicom_reads_the_same_findings(name: str) -> None:
    said = {f["code"]: f["presence"] for f in result_json(KINDS[name])["findings"]}
    words = {"present": "Present", "absent": "Absent", "abstained": "Undetermined"}
    assert _groups(build_documents(KINDS[name])[1].dataset) == {code: words[p] for code, p in said.items()}


def test_the_ladder_has_own_uids_and_keeps_every_text() -> None:
    steps = variants(build_documents(KINDS["new"])[1].dataset)
    assert [str(step.SOPClassUID) for step in steps] == [str(uid) for uid in STEPS]
    assert len({step.SOPInstanceUID for step in steps}) == 4
    assert [s.SOPInstanceUID for s in variants(steps[0])] == [s.SOPInstanceUID for s in steps]
    basic = "\n".join(tree_lines(steps[-1]))
    for words in ("Probability: 93.0 %", "Presence: Present", "Qualitative Difference: New"):
        assert words in basic
    assert not {i.ValueType for i in content_items(steps[-1])} & {"NUM", "SCOORD"}
