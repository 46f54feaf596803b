"""The shares of networks on the command line."""

from __future__ import annotations

import pytest
import typer

from training.films.finish import member_shares


def test_each_kind_of_output_has_its_shares() -> None:
    assert member_shares(["mined:0.1,0.9", "maps:0,1"], 2) == {"mined": [0.1, 0.9], "maps": [0.0, 1.0]}
    assert member_shares([], 2) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mined", "KIND:SHARE,SHARE"),
        ("mined:", "a share for each network"),
        ("mined:1", "not 2 that add up to 1"),
        ("mined:0.5,0.6", "not 2 that add up to 1"),
        ("mined:2,-1", "not 2 that add up to 1"),
        ("mined:nan,1", "not 2 that add up to 1"),
        ("sides:0,1", "known: mined, marked, amounts, maps"),
        ("mined:one,two", "a share for each network"),
    ],
)
def test_what_are_no_shares_is_refused_with_what_is_allowed(text: str, words: str) -> None:
    with pytest.raises(typer.BadParameter, match=words):
        member_shares([text], 2)
