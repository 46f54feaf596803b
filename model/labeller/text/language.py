"""Detection of English: "pneumothorax" is the same word in many languages, and "kein" is no denial here."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^\W\d_]+")
_FOREIGN_DENIALS = frozenset(
    _WORD.findall(
        "kein keine keinen keiner keinem keines nicht ohne weder pas sans aucun aucune geen niet zonder ingen "
        "inga inget utan ikke uden uten nessun nessuna senza sem ausência ausencia sin brak bez nincs ninguna "
        "ningún"
    )
)
"""German, French, Dutch, the Scandinavian languages, Italian, Portuguese, Spanish, Polish, Czech, Hungarian."""
_FOREIGN = frozenset(
    _WORD.findall(
        "der das den dem des und ist sind mit bei zum zur nach links rechts im beidseits befund beurteilung "
        "fragestellung erguss unauffällig zustand ein eine auch le les une avec dans gauche droite est el los "
        "las con del derrame izquierdo het een met og och av på il gli della com não direito esquerdo"
    )
)
_ENGLISH = frozenset(
    _WORD.findall(
        "the is are there no of and with in has have left right normal without at unchanged stable not small "
        "to for lungs heart seen clear tube lower effusion"
    )
)
MIN_FOREIGN_WORDS = 3


def is_english(text: str) -> bool:
    """Return whether a report's text is English, or too short to tell."""
    words = [word.lower() for word in _WORD.findall(text)]
    foreign = sum(word in _FOREIGN or word in _FOREIGN_DENIALS for word in words)
    return foreign < MIN_FOREIGN_WORDS or foreign <= sum(word in _ENGLISH for word in words)


def has_foreign_denial(sentence: str) -> bool:
    """Return whether a sentence denies in another language than English ("Kein Pneumothorax")."""
    return any(word.lower() in _FOREIGN_DENIALS for word in _WORD.findall(sentence))
