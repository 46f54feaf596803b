"""Conversations made from records: LUMEN's streams A to E."""
