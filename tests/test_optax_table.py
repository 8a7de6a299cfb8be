"""The page about Optax's optimizers says what is found with the Optax that is installed."""

import re
import sys

import optax
import pytest
from test_documents import ROOT

sys.path.insert(0, str(ROOT))
from benchmarks import optax_table  # noqa: E402

PAGE = optax_table.PAGE.read_text()
FACTORIES = optax_table.factories() | optax_table.OTHERS
WRITTEN = {match[1]: match[0] for match in re.finditer(r"^\| `([^`]+)` \|.*\|$", PAGE, re.MULTILINE)}
FEW = ("sgd", "contrib.muon", "noisy_sgd", "contrib.momo", "rprop", "amsgrad", "MultiSteps", "contrib.schedule_free_sgd")
VERSION = re.search(r"with Optax (\S+):", PAGE)[1]


def rows():
    for name in FACTORIES:
        yield pytest.param(name, marks=[] if name in FEW else pytest.mark.sweep)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(rows()))
def test_a_row_is_what_probing_finds(name):
    if name not in WRITTEN and optax.__version__ != VERSION:
        pytest.skip(f"the page is about Optax {VERSION}")
    row = optax_table.row(name, FACTORIES[name])
    assert WRITTEN[name] == f"| `{row.name}` | {row.verdict} | {row.why} | {row.instead} |"


def test_the_page_has_a_row_for_each_factory():
    assert PAGE.startswith(optax_table.MARK)
    if optax.__version__ == VERSION:
        assert list(WRITTEN) == list(FACTORIES)
