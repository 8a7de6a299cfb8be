"""Importing the package."""

import os
import subprocess
import sys


def test_the_import_starts_no_device():
    """So that it is fast, takes no accelerator's memory, and leaves `jax_platforms` and x64 to the user."""
    environment = {**os.environ, "JAX_PLATFORMS": "none_such"}  # whatever asks for a device fails
    subprocess.run([sys.executable, "-c", "import jaxsde"], env=environment, check=True)
