"""Removal of studies that are no longer needed."""
