"""The tables of the index (SQLAlchemy 2 typed). Study state, jobs and results live in one database and commit together.

The schema's history is in `migrations/`; a test compares these tables with the migrated schema.
"""

from dicom_node.index.tables.base import Base, Json, Key, Long, Name, Short, Uid, Utc, UtcDateTime, states
from dicom_node.index.tables.feedback import Aspect, Feedback, FeedbackSource, Verdict
from dicom_node.index.tables.jobs import Job, JobKind, JobState, LaneState, WorkerLane
from dicom_node.index.tables.operations import (
    AuditEvent,
    CommitmentRequest,
    CommitmentState,
    Hold,
    Notice,
    Quarantine,
    QuarantineReason,
    Tally,
)
from dicom_node.index.tables.results import (
    Delivery,
    DeliveryState,
    Document,
    DocumentKind,
    Outcome,
    Result,
)
from dicom_node.index.tables.studies import (
    CompletedBy,
    ExpectedRetrieval,
    Instance,
    PriorSearch,
    SearchOutcome,
    Series,
    Study,
    StudyPurpose,
    StudyState,
)

__all__ = [
    "Aspect",
    "AuditEvent",
    "Base",
    "CommitmentRequest",
    "CommitmentState",
    "CompletedBy",
    "Delivery",
    "DeliveryState",
    "Document",
    "DocumentKind",
    "ExpectedRetrieval",
    "Feedback",
    "FeedbackSource",
    "Hold",
    "Instance",
    "Job",
    "JobKind",
    "JobState",
    "LaneState",
    "Json",
    "Key",
    "Long",
    "Name",
    "Notice",
    "Outcome",
    "PriorSearch",
    "Quarantine",
    "QuarantineReason",
    "Result",
    "SearchOutcome",
    "Series",
    "Short",
    "Study",
    "StudyPurpose",
    "StudyState",
    "Tally",
    "Uid",
    "Utc",
    "UtcDateTime",
    "Verdict",
    "WorkerLane",
    "states",
]
