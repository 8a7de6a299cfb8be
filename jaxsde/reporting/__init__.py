"""Tables, pictures and files of results."""

from ._comparison import plot as plot, save as save, table as table
