"""The one exception tree of the node; every lower exception is mapped into it at the rim where it arises."""

from __future__ import annotations


class NodeError(Exception):
    """Root of everything that the node raises on purpose."""


class ConfigurationError(NodeError):
    """A setting is unknown, missing or wrong. The message names the key and what is allowed. Exit status 2."""


class UsageError(NodeError):
    """A command was called with arguments that do not fit. Exit status 2."""


class StorageError(NodeError):
    """The instance store cannot take or give bytes: disk full, watermark reached, file missing."""


class UnreadableObjectError(NodeError):
    """The bytes of a peer's object cannot be read as DICOM within the limits of time, depth and memory."""


class IndexUnavailableError(NodeError):
    """The database cannot be reached, is locked for too long, or has the wrong schema."""


class IndexConflictError(IndexUnavailableError):
    """The index undid the transaction in favour of another one (deadlock); trying again may do."""


class IdentityConflictError(NodeError):
    """An object claims to be what another one already is: same SOPInstanceUID with other content, other patient."""


class RetrieveError(NodeError):
    """A prior could not be fetched from another node; the message says what failed and at which peer."""


class ArchiveUnreachableError(RetrieveError):
    """No connection to the archive came about: the fault is of no single study."""


class TooManyImagesError(RetrieveError):
    """A study holds more images than priors.fetch_instances allows to be fetched."""


class DeliveryError(NodeError):
    """A destination did not take a document. `permanent` says that a retry cannot help.

    comment: the destination's own words. They may name a patient, so they are shown to users and never logged.
    """

    def __init__(self, message: str, *, permanent: bool = False, comment: str = "") -> None:
        super().__init__(message)
        self.permanent = permanent
        self.comment = comment


class AnalysisError(NodeError):
    """The analysis of a study failed in a way that a retry may mend."""


class ReportError(NodeError):
    """No document could be made; the ladder of `dicom_node.report` should make this impossible."""
