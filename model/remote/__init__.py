"""Clients for models on an OpenAI-compatible server."""
