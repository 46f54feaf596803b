"""Regions of findings on an image."""
