"""Audit messages (PS3.15 A.5) and their way to a syslog collector."""
