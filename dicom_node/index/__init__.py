"""The index: what the node holds and what it still has to do, in one SQLAlchemy database."""

from dicom_node.index import tables_models, tables_retrain  # whoever opens the index knows all its tables

__all__ = ["tables_models", "tables_retrain"]
