"""Checks of an image before a model is asked."""
