"""Importing the package."""

import os
import subprocess
import sys


def test_the_import_starts_no_device():
    """So that it is fast, takes no accelerator's memory, and leaves `jax_platforms` and x64 to the user."""
    environment = {**os.environ, "JAX_PLATFORMS": "none_such"}  # whatever asks for a device fails
    subprocess.run([sys.executable, "-c", "import jaxsde"], env=environment, check=True)


def test_the_import_loads_no_part_of_scipy_for_later():
    """Its statistics take as long to load as all the rest."""
    check = "import sys, jaxsde; assert not {'scipy.stats', 'scipy.integrate', 'matplotlib', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
