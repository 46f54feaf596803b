"""The choice of the image to analyse, and of the earlier one it may be compared with.

Use, all pure (values in, values out; the order of images never matters):

    facts = facts_of(header)                          # from a header; or facts_of_rows(study, series, instance)
    facts = replace(facts, check=image_check(check_view(display_image)), pixel_sha256=display_image.sha256)
    choice = select_current(all_facts_of_the_study, policy)   # choice.chosen: JudgedImage each; else choice.sentence
    prior = choose_prior(choice.chosen[0].image, facts_of_earlier_images, policy)
    prior.prior, prior.reasons, prior.verdicts        # ImageFacts | None; sentences for the report; one per candidate

The chosen film's pixels are looked at last: `same_picture(display_image, other)` and a decoder's failure go back in by
`choose_prior(..., same_picture={uid}, unreadable=[(uid, why)])`, until the choice stands.
`index.queries.prior_candidates` finds the earlier images; `policy_of(settings)` makes the policy.
"""

from dicom_node.priors.choose import choose_prior
from dicom_node.priors.current import select_current
from dicom_node.priors.facts import facts_of, facts_of_rows, patient_of, patient_of_row
from dicom_node.priors.identity import compare_identity, linked_ids
from dicom_node.priors.policy import image_check, policy_in_service, policy_of
from dicom_node.priors.same_film import same_picture
from dicom_node.priors.types import (
    CandidateVerdict,
    CurrentChoice,
    ImageCheck,
    ImageFacts,
    JudgedImage,
    Patient,
    PatientKey,
    PriorChoice,
    PriorPolicy,
    Refusal,
    View,
)

__all__ = [
    "CandidateVerdict",
    "CurrentChoice",
    "ImageCheck",
    "ImageFacts",
    "JudgedImage",
    "Patient",
    "PatientKey",
    "PriorChoice",
    "PriorPolicy",
    "Refusal",
    "View",
    "choose_prior",
    "compare_identity",
    "facts_of",
    "facts_of_rows",
    "image_check",
    "linked_ids",
    "patient_of",
    "patient_of_row",
    "policy_in_service",
    "policy_of",
    "same_picture",
    "select_current",
]
