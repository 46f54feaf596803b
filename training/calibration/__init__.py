"""Calibration of a checkpoint's answers on validation pairs."""
