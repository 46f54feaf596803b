"""The index: what the node holds and what it still has to do, in one SQLAlchemy database."""

from dicom_node.index.tables import chart as tables_chart
from dicom_node.index.tables import models as tables_models  # whoever opens the index knows all its tables
from dicom_node.index.tables import questions as tables_questions
from dicom_node.index.tables import retrain as tables_retrain

__all__ = ["tables_chart", "tables_models", "tables_questions", "tables_retrain"]
