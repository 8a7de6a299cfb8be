"""The text table that reports and benchmarks share."""

import pytest

from jaxsde.reporting._table import text_table


def test_words_are_aligned_to_the_left_and_numbers_to_the_right():
    lines = text_table(("name", "value", "remark"), [("a", "1.25", "short"), ("long one", "-10", "x")], left=(0, 2)).split("\n")
    assert lines == [
        "name      value  remark",
        "-----------------------",
        "a          1.25  short",
        "long one    -10  x",
    ]


def test_a_row_of_none_draws_a_rule():
    lines = text_table(("", "n"), [("part", "1"), None, ("whole", "22")]).split("\n")
    assert lines[1] == lines[3] == "-" * len("whole  22")


def test_no_line_ends_in_spaces_and_a_table_without_rows_is_its_header():
    assert text_table(("what", ""), [("one", "")], left=(0, 1)).split("\n") == ["what", "------", "one"]
    assert text_table(("a", "b"), []) == "a  b\n----"


def test_a_row_of_another_length_is_named():
    with pytest.raises(ValueError, match=r"a row needs 2 cells, as the header has, got 3: \('1', '2', '3'\)"):
        text_table(("a", "b"), [("1", "2", "3")])
