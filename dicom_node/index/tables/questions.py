"""Questions asked of studies, and their answers."""

from typing import Any

from sqlalchemy import JSON, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from dicom_node.index.tables.core import Base, Key, Long, Name, Uid, Utc


class StudyQuestion(Base):
    """One question with its answer or refusal. Rows are only added. Goes with its study."""

    __tablename__ = "study_question"
    __table_args__ = (
        Index("ix_study_question_study", "study_pk", "id"),
        Index("ix_study_question_author", "author", "asked_at"),
    )

    id: Mapped[Key]
    study_pk: Mapped[int] = mapped_column(ForeignKey("study.id", ondelete="CASCADE"))
    result_pk: Mapped[int | None] = mapped_column(ForeignKey("result.id", ondelete="SET NULL"), index=True)
    """The result that the answer was read out of; none for a refusal without a result."""
    author: Mapped[Name]
    asked_at: Mapped[Utc]
    text: Mapped[Long]
    answer: Mapped[Long]
    """The answer's words, or why there is none."""
    is_refused: Mapped[bool] = mapped_column(default=False)
    certainty: Mapped[float | None] = mapped_column(default=None)
    """0..1; of what is said."""
    images: Mapped[list[str]] = mapped_column(JSON, default=list)
    """SOP Instance UIDs of the images that the answer rests on."""
    regions: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    """Outlines as result.json has them."""
    device_uid: Mapped[Uid] = mapped_column(default="")
    """The checkpoint that answered."""
