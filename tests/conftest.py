"""What every test shares: how thorough to be, and the dtypes."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator

import foveate as fv
import hypothesis
import openmp_runtime
import pytest
from strategies import DTYPES

# "ci" draws the same examples each time, so that a red run can be run again; "thorough" looks
# further, with new ones each time. No deadline: a machine that is shared stalls now and then.
hypothesis.settings.register_profile(
    "ci", max_examples=50, derandomize=True, deadline=None, print_blob=True
)
hypothesis.settings.register_profile("thorough", max_examples=2000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Keras asks for TensorFlow unless it is told otherwise.
os.environ.setdefault("KERAS_BACKEND", "jax")

# Inductor keeps what it compiled from run to run, under a key that knows nothing of the shapes that
# an operator says it returns: another state of foveate would find what is not its own.
if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(prefix="foveate-inductor-")
    atexit.register(shutil.rmtree, os.environ["TORCHINDUCTOR_CACHE_DIR"], ignore_errors=True)


# The whole suite on an OpenMP runtime, where that is asked for: one that is not there fails here.
if os.environ.get("FOVEATE_THREADING") == "openmp":
    openmp_runtime.load()
    fv.set_threading("openmp")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="elementary functions over all 2^32 floats instead of a sweep",
    )


def pytest_report_header() -> str:
    isa = os.environ.get("FOVEATE_ISA", "(best)")
    return f"foveate: FOVEATE_ISA={isa}, threading: {fv.get_threading()}"


@pytest.fixture(params=DTYPES, ids=lambda dtype: dtype.name)
def dtype(request: pytest.FixtureRequest):
    """Each dtype that the library takes."""
    return request.param


@pytest.fixture(scope="session")
def torch():
    """PyTorch, where it is installed; its import may warn of what is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="session")
def transformers(torch):
    """Hugging Face transformers, where it is installed, with "foveate" registered."""
    del torch  # it is installed too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip(
            "transformers", minversion="5.4", reason="transformers 5.4 is not installed"
        )
        import foveate.transformers
    foveate.transformers.register()
    module.logging.set_verbosity_error()
    return module


@pytest.fixture(autouse=True)
def default_threads() -> Iterator[None]:
    """No test leaves its number of threads, or whose they are, to the next."""
    threading = fv.get_threading()
    yield
    fv.set_num_threads(0)
    fv.set_threading(threading)
