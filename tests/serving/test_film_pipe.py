"""Films through a pipe: the same pixels, writable, whatever their number and size; an end is an end."""

from __future__ import annotations

import multiprocessing
import threading

import numpy as np
import pytest

from dicom_node.serving.film_pipe import receive_value, send_value
from model.images.display import from_grey
from model.schema import StudyPair


@pytest.mark.parametrize("sides", [(8, 8), (900, 1100)])
def test_pairs_arrive_as_they_were_sent(sides: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    films = [from_grey(rng.random(sides, dtype=np.float32), crop=False) for _ in range(3)]
    sent = (StudyPair(current=films[0], prior=films[1]), StudyPair(current=films[2]))
    ours, theirs = multiprocessing.Pipe()
    thread = threading.Thread(target=send_value, args=(ours, sent))
    thread.start()
    first, second = receive_value(theirs)
    thread.join()
    assert first.prior is not None
    for film, other in zip((first.current, first.prior, second.current), films, strict=True):
        assert np.array_equal(film.pixels, other.pixels)
        assert film.pixels.flags.writeable
        assert film.geometry == other.geometry
        assert film.sha256 == other.sha256
    assert second.prior is None
    send_value(theirs, "no array")
    assert receive_value(ours) == "no array"


def test_a_view_of_every_second_column_and_an_empty_array_arrive_whole() -> None:
    grid = np.arange(24, dtype=np.float32).reshape(4, 6)
    ours, theirs = multiprocessing.Pipe()
    send_value(ours, [grid[:, ::2], grid.T, np.zeros((0, 3), dtype=np.float32)])
    strided, turned, empty = receive_value(theirs)
    assert np.array_equal(strided, grid[:, ::2])
    assert np.array_equal(turned, grid.T)
    assert empty.shape == (0, 3)


def test_a_pipe_that_ends_within_a_film_is_an_end() -> None:
    ours, theirs = multiprocessing.Pipe()
    ours.send((b"outline", [1000]))
    ours.close()
    with pytest.raises(EOFError):
        receive_value(theirs)
    theirs.close()
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(OSError, match="Broken pipe"):
        send_value(ours, np.zeros(100_000))
