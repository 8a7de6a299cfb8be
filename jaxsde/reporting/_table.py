"""The one text table that all reports share."""

from collections.abc import Collection, Sequence

# Columns of a terminal that a report may take.
WIDTH = 100


def text_table(header: Sequence[str], rows: Sequence[Sequence[str] | None], *, left: Collection[int] = (0,)) -> str:
    """Columns as wide as their widest cell, two spaces between them, a rule below the header.

    **Arguments:**

    - `header`, `rows`: the cells; a row that is None draws a rule.
    - `left`: the columns that are aligned to the left, as words are; all others are aligned to the right, as numbers are.

    **Raises:** `ValueError` for a row that has another number of cells than the header.

    >>> print(text_table(("name", "value"), [("one", "1"), ("eleven", "11")]))
    name    value
    -------------
    one         1
    eleven     11
    """
    for row in rows:
        if row is not None and len(row) != len(header):
            raise ValueError(f"a row needs {len(header)} cells, as the header has, got {len(row)}: {tuple(row)}")
    cells = [header, *(row for row in rows if row is not None)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = (cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        return "  ".join(padded).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(header), rule, *(rule if row is None else line(row) for row in rows)])
