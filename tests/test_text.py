"""Text in other encodings, numbers that are text."""

from math import inf, isnan, nan

import pytest

from lesson_lib.data.text import decode, identity, number, sides, whole_number


@pytest.mark.parametrize(
    "text, encoding",
    [
        ("", "utf-8"),
        ("plain", "ascii"),
        ("véhicule 猫", "utf-8"),
        ("véhicule 猫", "utf-8-sig"),
        ("véhicule 猫", "utf-16"),
        ("<véhicule> 猫", "utf-16-le"),
        ("<véhicule> 猫", "utf-16-be"),
        ("véhicule 猫", "utf-32"),
        ("图片和猫", "gb2312"),
        ("véhicule, äöü", "latin-1"),
        ("prix €5, véhicule", "cp1252"),
    ],
)
def test_text_is_read_as_it_was_meant(text, encoding):
    assert decode(text.encode(encoding)) == text


def test_a_declared_encoding_comes_first_and_an_unknown_one_is_passed_over():
    assert decode("д".encode("cp1251"), ("cp1251",)) == "д"
    assert decode("д".encode(), ("no-such-encoding",)) == "д"
    assert decode("é".encode("latin-1"), ("ascii",)) == "é"


@pytest.mark.parametrize(
    "value, wanted",
    [
        (3, 3),
        (2.5, 2.5),
        ("64", 64),
        (" 64.0 ", 64),
        ("3.6e1", 36),
        ("-1", -1),
        ("inf", inf),
        *((value, nan) for value in ("", "x", "1,5", None, True, [1], {"a": 1}, 10**400)),
    ],
)
def test_numbers(value, wanted):
    found = number(value)
    assert found == wanted or (isnan(found) and isnan(wanted))


@pytest.mark.parametrize(
    "value, wanted",
    [(3, 3), (3.0, 3), ("3.0", 3), (" 3", 3), (2.5, None), (nan, None), (inf, None), ("x", None)],
)
def test_whole_numbers(value, wanted):
    assert whole_number(value) == wanted


@pytest.mark.parametrize(
    "value, wanted",
    [
        (7, 7),
        ("7", 7),
        ("007", 7),
        (7.0, 7),
        ("7.0", 7),
        (2**53 + 1, 2**53 + 1),
        (str(2**53 + 1), 2**53 + 1),
        (" img-7 ", "img-7"),
        *((value, None) for value in (None, True, [1], {"id": 1}, 2.5, nan)),
    ],
)
def test_ids(value, wanted):
    assert identity(value) == wanted


@pytest.mark.parametrize(
    "height, width, wanted",
    [
        (10, 20, (10, 20)),
        ("10", "20.0", (10, 20)),
        *((10, bad, None) for bad in (0, -1, None, "", "x", 2.5, nan, inf, [20], True)),
    ],
)
def test_the_sides_of_a_picture(height, width, wanted):
    assert sides(height, width) == wanted
