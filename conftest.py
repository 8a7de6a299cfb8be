"""How tests are compiled, names that the doctests may use, and where annotations are checked: in all tests but those of
errors."""

import inspect
import os
import subprocess
import sys

import diffrax
import jax
import jax.numpy as jnp
import jaxtyping
import optax
import pytest

# Three quarters of the time of most tests would go into making their programs fast.
_QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    """Has XLA optimize little, except for the sweeps, which run long, and where XLA_FLAGS are given. A flag that is unknown to
    this version of XLA would end the process."""
    if "XLA_FLAGS" in os.environ or config.option.markexpr != "not sweep":
        return
    environment = os.environ | {"XLA_FLAGS": _QUICK_COMPILATION}
    known = subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=environment, capture_output=True)
    os.environ["XLA_FLAGS"] = "" if known.returncode else _QUICK_COMPILATION


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, optax=optax, diffrax=diffrax)


@pytest.fixture(autouse=True, scope="module")
def _programs_of_a_module_are_dropped():
    """Each compiled program takes some pages of memory of their own, of which a process may have 65,530 on Linux."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _errors_are_the_packages_own(request):
    """A test that expects errors may hand over what the annotations forbid: the check of annotations, whose error is a
    TypeError as well, must not come before the package's own."""
    function = getattr(request.node, "function", None)
    disabled = jaxtyping.config.jaxtyping_disable
    if function is not None and "pytest.raises(" in inspect.getsource(function):
        jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", disabled)


def pytest_terminal_summary(terminalreporter):
    """Says how many examples the tests of properties have tried."""
    reports = [r for reports in terminalreporter.stats.values() for r in reports if getattr(r, "when", "") == "call"]
    counts = [n for report in reports for name, n in getattr(report, "user_properties", ()) if name == "examples"]
    if counts:
        terminalreporter.write_line(f"{sum(counts)} examples of properties")
