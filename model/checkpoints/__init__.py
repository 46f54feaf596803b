"""Checkpoint folders: manifests, the registry and what validation said."""
