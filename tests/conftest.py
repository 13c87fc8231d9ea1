"""Shared fixtures and environment: the Triton interpreter must be chosen before triton is first imported."""

import os
from pathlib import Path

from capability import ENVIRONMENT

# Only the tests of the device path know a GPU, and only when they are asked to: the others expect the processor.
if os.environ.get("FASTMASK_TEST_DEVICE") != "cuda":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands do
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# FASTMASK_TEST_CAPABILITY=avx2 or none runs every test, and the processes that they start, as on such a processor.
if os.environ.get("FASTMASK_TEST_CAPABILITY"):
    os.environ |= ENVIRONMENT[os.environ["FASTMASK_TEST_CAPABILITY"]]

import pytest
import torch

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).parents[2] / "shared"
THREADS = torch.get_num_threads()


@pytest.fixture(scope="session")
def mr_tiny() -> str:
    return str(DATA / "mr-tiny")


@pytest.fixture(scope="session")
def restaurant_tiny() -> str:
    return str(DATA / "restaurant-tiny")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    return DATA / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED


@pytest.fixture(autouse=True)
def threads_of_a_new_process():
    """Sums on another number of threads come out otherwise: a test must not have the number that one before it left."""
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture
def one_thread(threads_of_a_new_process):
    """Sums on several threads may come out otherwise in another run."""
    torch.set_num_threads(1)


@pytest.fixture
def said(caplog):
    """What fastmask logs, a line each in ``said.messages``."""
    caplog.set_level("INFO", "fastmask")
    return caplog


@pytest.fixture(autouse=True, scope="session")
def no_lines_now_and_then():
    """Plain lines of progress come after some seconds: what a test sees would depend on how busy the machine is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastmask.report.progress.SECONDS_BETWEEN_LINES", float("inf"))
        yield
