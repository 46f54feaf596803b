"""Password hashes for `[[web.users]]`."""

from __future__ import annotations

from argon2 import PasswordHasher


def hash_password(password: str) -> str:
    """The argon2id hash for `[[web.users]]`."""
    return PasswordHasher().hash(password)
