"""x"""
from typing import Any
from collections.abc import Mapping, Sequence
from training.arms.course_ask import CourseAnswer
Results = Mapping[str, Sequence[tuple[dict[str, Any], dict[str, list[CourseAnswer]]]]]
def write_course_study(*a: Any) -> Any: ...
BUNDLED, WITH_EXPERT = "bundled model", "+ expert"
