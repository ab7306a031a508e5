"""Names that attack a terminal or a table, and columns that must add up as printed."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wattmill_api.terminal import text


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_printed(name: str) -> None:
    shown = text.printable(name)
    assert shown.isprintable()
    assert all(ord(character) >= 32 and not 127 <= ord(character) < 160 for character in shown)
    assert "\u202e" not in shown


def test_what_was_hidden_is_shown() -> None:
    assert text.printable("a\x1b[31mb\n\u202e\x9b") == "a\\x1b[31mb\\x0a\\u202e\\x9b"
    assert text.printable("Zürich 東京 😀") == "Zürich 東京 😀"
    assert text.printable("abcdef", 4) == "abc…"


def test_a_name_is_no_markup() -> None:
    assert text.markdown("a|b\n# <img src=x> [x](http://y) `c`") == (
        "a\\|b\\\\x0a\\# \\<img src=x\\> \\[x\\](http\\://y) \\`c\\`"
    )


def test_json_is_ascii_without_controls_and_exact() -> None:
    written = text.to_json({"name": "\x1b\x7f\x9b\u202e", "mj": 2**70})
    assert written.isascii()
    assert written.isprintable()
    assert str(2**70) in written
    with pytest.raises(ValueError, match="JSON"):
        text.to_json({"ratio": float("nan")})


@given(st.lists(st.fractions(min_value=-1000, max_value=10**9), max_size=30), st.integers(0, 6))
def test_a_rounded_column_adds_up_to_its_rounded_total(parts: list[Fraction], digits: int) -> None:
    column = text.rounded(parts, digits)
    unit = Fraction(1, 10**digits)
    assert sum(column, Fraction(0)) == round(sum(parts, Fraction(0)) / unit) * unit
    assert all(abs(after - before) < unit for before, after in zip(parts, column, strict=True))


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "—"), (0.0, "0"), (1234567.8, "1,234,568"), (123.45, "123.5"), (0.000123456, "0.000123")],
)
def test_figures(value: float | None, shown: str) -> None:
    assert text.figure(value) == shown


def test_a_hundred_per_cent_is_all_of_it() -> None:
    assert (text.percent(1.0), text.percent(0.99999), text.percent(None)) == ("100.0 %", "99.9 %", "—")


def test_no_tokens_is_no_traffic_and_unread_tokens_are_not_known() -> None:
    assert (text.why_none(0, 5), text.why_none(None, 5)) == ("no traffic", "not known")
    assert text.decimal(Fraction(-1234567, 1000), 3) == "-1,234.567"
