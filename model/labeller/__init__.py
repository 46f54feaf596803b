"""Findings read out of report texts."""
