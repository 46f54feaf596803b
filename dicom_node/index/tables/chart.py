"""The tables of the chart: laboratory values and treatments of patients, and codes that were not known."""

from enum import StrEnum

from sqlalchemy import Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.index.tables.base import Base, Key, Name, Short, Uid, Utc, states


class ChartKind(StrEnum):
    """The kind of an entry."""

    LAB = "lab"
    """A numeric laboratory result."""
    TREATMENT = "treatment"
    """An order of a drug or a procedure."""


class ChartEntry(Base):
    """One result or order as its newest message has it. Times are local, YYYYMMDDHHMMSS, as their sender states them;
    a zone is in minutes ahead of UTC, None where it was not stated."""

    __tablename__ = "chart_entry"
    __table_args__ = (
        Index("ix_chart_entry_patient", "patient_id", "issuer"),
        Index("ix_chart_entry_received_at", "received_at"),
    )

    id: Mapped[Key]
    item_key: Mapped[Uid] = mapped_column(unique=True)
    """SHA-256 of what names the item at its sender: a message that comes twice changes nothing."""
    kind: Mapped[ChartKind] = mapped_column(states(ChartKind))
    patient_id: Mapped[Short]
    issuer: Mapped[Short] = mapped_column(default="")
    sender: Mapped[Name] = mapped_column(default="")
    name: Mapped[Short] = mapped_column(default="")
    """By `dicom_node/chart/known.toml`; "" of an order of which only the end came so far."""
    value: Mapped[float | None] = mapped_column(default=None)
    """In the unit of known.toml."""
    comparator: Mapped[Short] = mapped_column(default="")
    """ "<" where the value is only known to be below the number, and so on."""
    flag: Mapped[Short] = mapped_column(default="")
    """HL7 table 0078: N, L, LL, H or HH."""
    begins_at: Mapped[Short] = mapped_column(default="")
    """When the sample was taken, or the treatment begins."""
    begins_zone: Mapped[int | None] = mapped_column(default=None)
    known_at: Mapped[Short] = mapped_column(default="")
    """When the result was reported, or the order placed."""
    known_zone: Mapped[int | None] = mapped_column(default=None)
    ends_at: Mapped[Short] = mapped_column(default="")
    """When the treatment ends or was cancelled; "" where nobody said."""
    ends_zone: Mapped[int | None] = mapped_column(default=None)
    message_at: Mapped[Short] = mapped_column(default="")
    """Of the newest message on it."""
    is_withdrawn: Mapped[bool] = mapped_column(default=False)
    """Deleted or wrong, by its sender."""
    received_at: Mapped[Utc]


class ChartUnknown(Base):
    """A code or unit that is not known here, and how often it came. Holds no value and no patient."""

    __tablename__ = "chart_unknown"
    __table_args__ = (UniqueConstraint("kind", "code", "system"),)

    id: Mapped[Key]
    kind: Mapped[Short]
    """ "lab", "unit", "treatment", "time", "value"."""
    code: Mapped[Short]
    system: Mapped[Short] = mapped_column(default="")
    times: Mapped[int] = mapped_column(default=0)
    last_at: Mapped[Utc]
