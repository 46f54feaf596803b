"""Data sets, their mixture, and batches."""
