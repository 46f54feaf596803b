"""A lane on a broken machine pauses, gives attempts back, and comes back by one tried job."""

from __future__ import annotations

from dicom_node.jobs.lane_health import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, MAX_FAILURES, LaneHealth


class Steady:
    """A steady clock that a test moves."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_different_jobs_failing_in_a_row_pause_the_lane_and_are_all_given_back() -> None:
    steady = Steady()
    health = LaneHealth(steady=steady)
    assert [health.record_failure(number, "OSError") for number in range(1, MAX_FAILURES)] == [[]] * (MAX_FAILURES - 1)
    assert sorted(health.record_failure(MAX_FAILURES, "OSError")) == list(range(1, MAX_FAILURES + 1))
    assert health.pause_left() == FIRST_PAUSE_SECONDS
    assert "OSError" in health.reason
    steady.seconds += FIRST_PAUSE_SECONDS
    assert health.pause_left() == 0.0


def test_one_job_that_always_fails_does_not_pause_the_lane() -> None:
    health = LaneHealth()
    assert all(health.record_failure(7, "ValueError") == [] for _ in range(20))
    assert health.pause_left() == 0.0


def test_a_success_between_failures_ends_the_row() -> None:
    health = LaneHealth()
    for number in range(20):
        assert health.record_failure(number, "ValueError") == []
        health.record_success()
    assert health.reason == ""


def test_a_job_tried_after_the_pause_doubles_it_or_ends_it() -> None:
    steady = Steady()
    health = LaneHealth(steady=steady)
    for number in range(MAX_FAILURES):
        health.record_failure(number, "OSError")
    pauses = []
    for number in range(100, 108):
        steady.seconds += health.pause_left()
        assert health.record_failure(number, "OSError") == [number], "its attempt does not count either"
        pauses.append(health.pause_left())
    assert pauses[:2] == [2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS
    steady.seconds += health.pause_left()
    health.record_success()
    assert (health.is_on_trial, health.reason) == (False, "")
    assert health.record_failure(1, "OSError") == []
