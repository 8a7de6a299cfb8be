"""The first code cell of every notebook, after this docstring; `location.py` writes it into them."""

# Set this to install jaxsde from elsewhere than a folder above: the address of a Git repository that you trust.
ADDRESS = ""

import glob
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import warnings

wanted = os.environ.get("JAX_PLATFORMS") or "tpu,cuda"
names = ("COLAB_TPU_ADDR", "TPU_NAME", "TPU_ACCELERATOR_TYPE")
has_tpu = any(map(os.environ.get, names)) or bool(glob.glob("/dev/accel*"))  # whether a TPU should be found
has_tpu = has_tpu or bool(glob.glob("/dev/vfio/[0-9]*") and importlib.util.find_spec("libtpu"))

if importlib.util.find_spec("jaxsde") is None:
    files = [folder / "pyproject.toml" for folder in (pathlib.Path.cwd(), *pathlib.Path.cwd().parents)]
    checkout = next((file.parent for file in files if file.is_file() and 'name = "jaxsde"' in file.read_text()), None)
    if checkout is None and not ADDRESS:
        raise ImportError(
            "jaxsde is not installed, and no folder above this notebook holds it: set ADDRESS at the top of this cell to the "
            "address of a Git repository of jaxsde that you trust, or install jaxsde into this kernel yourself"
        )
    packages = [f"jaxsde[all] @ git+{ADDRESS}" if checkout is None else f"{checkout}[all]"]
    if has_tpu:
        # In one call, before anything imports jax: jax and its driver of TPUs have to fit each other.
        packages.append("jax[tpu]")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *packages], check=True)
    importlib.invalidate_caches()

import jax

if has_tpu and "tpu" in wanted and jax.default_backend() != "tpu":  # of which JAX itself only warns
    raise RuntimeError('JAX does not see the TPU: %pip install -U "jax[tpu]" in a fresh runtime, before any import of jax')
if shutil.which("nvidia-smi") and ("cuda" in wanted or "gpu" in wanted) and jax.default_backend() == "cpu":
    warnings.warn('JAX does not see the GPU: %pip install -U "jax[cuda12]" and restart the runtime', stacklevel=1)
