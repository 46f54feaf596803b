"""Structured Report documents."""
