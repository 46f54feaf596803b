"""Hazards to a patient: docs/hazards.md names these tests."""
