"""A real S3 server on this machine, for the tests of what is read from stores and written to them."""

import logging
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import fsspec
import pytest
from moto.server import ThreadedMotoServer

_NUMBER = count()
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
               "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server; its processes and children find it by the environment."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        yield os.environ["AWS_ENDPOINT_URL"]
    server.stop()


@pytest.fixture
def bucket(s3_server) -> str:
    """The URL of an empty bucket."""
    url = f"s3://bucket-{next(_NUMBER)}"
    fsspec.filesystem("s3").mkdir(url)
    return url


def put(folder, url: str) -> str:
    """Copy a directory to a store."""
    fsspec.url_to_fs(url)[0].put(f"{folder}/", f"{url}/", recursive=True)
    return url


def stored(url: str) -> dict[str, bytes]:
    """The content of each object below a URL, by the rest of its name."""
    fs, root = fsspec.url_to_fs(url)
    fs.invalidate_cache()
    return {name[len(root) + 1 :]: fs.cat_file(name) for name in fs.find(root)}


def local(folder) -> dict[str, bytes]:
    """The same of a directory."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
