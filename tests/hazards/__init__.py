"""What must not go wrong for a patient: docs/hazards.md names these tests."""
