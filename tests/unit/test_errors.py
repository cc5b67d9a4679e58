"""How a refusal reads."""

import pytest

from batchnorm.errors import format_error


def test_three_parts_become_three_sentences() -> None:
    assert (
        format_error("This was asked", "It cannot be", "Do that") == "This was asked. It cannot be. Do that."
    )


@pytest.mark.parametrize("end", ["", ".", "..."])
def test_a_part_may_end_in_a_period(end: str) -> None:
    assert format_error(f"what{end}", f"why{end}", f"how{end}") == "what. why. how."


def test_other_endings_stay() -> None:
    assert format_error("(a)", "'b'", "c 1.5") == "(a). 'b'. c 1.5."
