"""Typical results as a reading room sees them every week, with the sentences that the analysis really writes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dicom_node.index.tables.core import Outcome
from dicom_node.report.dropped_regions import DroppedRegion, RegionFault
from dicom_node.report.request import ReportRequest, SourceImage
from dicom_node.report.rules import EarlierStatement, Seen
from model.schema import AbstainReason, Change, ImageRole, Prediction
from tests.support.report_cases import MODEL, absent, finding, header, image, prediction, region, request

NEWEST = (
    "The prior is the patient's most recent earlier frontal chest radiograph that this node holds.",
    "Same person: patient ID and issuer, birth date, sex and name agree.",
    "Same view: PA.",
)
OTHER_VIEW = (*NEWEST[:2], "Views: prior AP, current PA.")
NOT_USED = "Not used: image of 2026-02-20 09:10: it is a lateral view (ViewPosition says LL)."
SAME_DAY = SourceImage(header=header("same day", "20260310", "054000"), image=image(3))
PORTABLE = SourceImage(header=header("portable", "20260301"), image=replace(image(2), view="AP"))


def compared(said: Prediction, **values: Any) -> ReportRequest:
    return request(said, **({"prior_reasons": NEWEST} | values))


def not_analysed(why: AbstainReason, detail: str) -> ReportRequest:
    said = Prediction(findings=(), model=MODEL, abstained=why, abstained_detail=detail)
    return request(said, prior=None, outcome=Outcome.NOT_ANALYSED, reason=detail, prior_reasons=())


def possible(key: str, probability: float) -> object:
    return replace(absent(key), probability=probability)


def typical() -> dict[str, ReportRequest]:
    """One request for each, by the words that a radiologist would name it with."""
    both = (region(), region(ImageRole.PRIOR))
    effusion = finding("pleural_effusion", Change.NEW, location="left", level="moderate", regions=(region(),))
    return {
        "normal, as before": compared(prediction()),
        "new effusion": compared(prediction(effusion, finding("cardiomegaly", Change.STABLE, level="mild"))),
        "new pneumothorax beside an unchanged tube": compared(
            prediction(
                finding("pneumothorax", Change.NEW, location="right apical", level="mild", regions=(region(),)),
                finding("endotracheal_tube", Change.STABLE),
                finding("consolidation", Change.STABLE, location="left lower lobe"),
            ),
            prior=SAME_DAY,
        ),
        "edema worse, effusions larger": compared(
            prediction(
                finding("edema", Change.WORSENING, level="severe", regions=both, prior_probability=0.7),
                finding("pleural_effusion", Change.WORSENING, location="bilateral", level="moderate"),
                finding("cardiomegaly", Change.STABLE, level="moderate"),
                finding("central_line", Change.STABLE, location="right"),
            )
        ),
        "pneumonia better": compared(
            prediction(finding("consolidation", Change.IMPROVING, location="right lower lobe", level="mild"))
        ),
        "pneumothorax gone with its drain": compared(
            prediction(
                finding("pneumothorax", Change.RESOLVED, location="left", prior_probability=0.9),
                finding("chest_tube", Change.RESOLVED, location="left"),
            )
        ),
        "chronic findings unchanged": compared(
            prediction(
                finding("cardiomegaly", Change.STABLE, level="moderate"),
                finding("pacemaker", Change.STABLE),
                finding("atelectasis", Change.STABLE, location="left base", level="mild"),
                possible("lung_nodule", 0.38),  # type: ignore[arg-type]
            ),
            prior_reasons=(*NEWEST, NOT_USED),
        ),
        "first film": request(
            prediction(finding("pleural_effusion", location="bilateral", level="mild"), finding("cardiomegaly")),
            prior=None,
            reason="No comparison: no earlier image of this patient is known.",
            prior_reasons=("No comparison: no earlier image of this patient is known.",),
        ),
        "uncertain, and other projection": compared(
            prediction(
                finding("cardiomegaly", Change.WORSENING, level="moderate"),
                finding("consolidation", Change.WORSENING, location="right", change_probability=0.41),
                finding("edema", Change.NEW),
                possible("pneumothorax", 0.31),  # type: ignore[arg-type]
            ),
            prior=PORTABLE,
            prior_reasons=OTHER_VIEW,
            earlier={"edema": EarlierStatement(seen=Seen.SEEN)},
            dropped_regions=(
                DroppedRegion(finding="consolidation", role=ImageRole.CURRENT, fault=RegionFault.WRONG_SIDE),
            ),
        ),
        "nothing certain, and some not judged": compared(
            prediction(
                possible("pleural_effusion", 0.38),  # type: ignore[arg-type]
                replace(finding("consolidation", Change.NEW, location="right"), probability=0.18),
                unstated=("cardiomegaly", "endotracheal_tube"),
            )
        ),
        "second of two films, a newer one not used": compared(
            prediction(effusion),
            frontal_images=2,
            frontal_number=2,
            newer_prior="Not compared with the more recent prior of 2026-03-05 11:20: it has another view (AP).",
        ),
        "lateral film alone": not_analysed(
            AbstainReason.NOT_FRONTAL,
            "No image of this study is a frontal chest radiograph for display. Image 1: it is a lateral view (the image"
            " looks lateral; ViewPosition says LL; SeriesDescription says 'Thorax seitl.').",
        ),
        "unlike the films of training": not_analysed(
            AbstainReason.UNFAMILIAR, "How well the model reads such an image was never measured."
        ),
    }
