"""Files in stores: what of a path they have, and that every fault is one line with the URL."""

import errno
import functools
import http.server
import pickle
import threading

import fsspec
import pytest
from stores import bucket, s3_server  # noqa: F401

from fastmask.core.errors import FastmaskError
from fastmask.core.urls import Url, UrlReader, is_url, path_of


def test_what_is_a_url():
    assert all(
        map(is_url, ("s3://b/x", "hf://datasets/a/b", "simplecache::s3://b/x", "memory://x", "S3://b", Url("a")))
    )
    assert not any(map(is_url, ("a/b.txt", "-", "C:x", "file:///a", "local:///a", "a:b//c", "::s3://x", "")))
    assert str(path_of("file:///a/b.txt")) == "/a/b.txt" and isinstance(path_of("s3://b/x"), Url)
    assert (
        Url("https://host/a.csv.gz?download=1").name == "a.csv.gz" and str(Url("s3://b/x/").parent / "y") == "s3://b/y"
    )


@pytest.mark.parametrize("store", ["memory", "s3"])
def test_a_file_in_a_store(store, request):
    root = Url(request.getfixturevalue("bucket") if store == "s3" else "memory://test_a_file") / "folder"
    assert not root.exists() and not root.is_dir() and list(root.iterdir()) == []
    one = root / "one.txt"
    one.write_bytes(b"abcdef\ngh")
    assert one.is_file() and not one.is_dir() and root.is_dir() and one.read_bytes() == b"abcdef\ngh"
    (root / "deep" / "two.txt").write_bytes(b"")
    assert [path.name for path in root.iterdir()] == ["deep", "one.txt"]
    with one.open() as file:
        assert file.readline() == b"abcdef\n" and file.tell() == 7 and file.seek(-3, 2) == 6 and file.read() == b"\ngh"
    before = one.stat()
    one.write_bytes(b"abcdef\ngx")
    root.refresh()
    assert one.stat().st_size == before.st_size and one.stat() != before
    with pytest.raises(FileExistsError):
        one.create(b"other")
    assert one.read_bytes() == b"abcdef\ngx" and pickle.loads(pickle.dumps(one)) == one
    one.unlink()
    one.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError) as raised:
        one.open()
    assert (raised.value.filename, raised.value.strerror) == (str(one), "no such file")


def test_names_in_a_store(bucket):  # noqa: F811
    root = Url(bucket)
    for name in ("b/2.txt", "b/10.txt", "a.txt", "b/c/3.txt"):
        (root / name).write_bytes(b"x")
    fsspec.filesystem("s3").pipe_file(f"{bucket}/b/", b"")  # a folder, as some programs make one
    assert root.files() == [f"{bucket}/{name}" for name in ("a.txt", "b/10.txt", "b/2.txt", "b/c/3.txt")]
    assert root.files(f"{bucket}/b/*.txt") == [f"{bucket}/b/10.txt", f"{bucket}/b/2.txt"]
    assert root.files(f"{bucket}/**/*.txt")[-1] == f"{bucket}/b/c/3.txt"


def test_what_has_no_driver_or_is_no_scheme():
    with pytest.raises(FastmaskError, match=r"^nothing://b/x: Protocol not known: nothing$"):
        Url("nothing://b/x").open()
    fsspec.register_implementation(
        "fastmask-none", "no_such_module.FileSystem", errtxt="Install no_such_module", clobber=True
    )
    with pytest.raises(FastmaskError, match=r"^fastmask-none://x: Install no_such_module"):
        Url("fastmask-none://x").stat()


def test_a_missing_bucket_is_named(s3_server):  # noqa: F811
    with pytest.raises(OSError, match="bucket does not exist") as raised:
        Url("s3://no-such-bucket/x.txt").write_bytes(b"")
    assert raised.value.filename == "s3://no-such-bucket/x.txt"


def test_no_credentials(s3_server, monkeypatch):  # noqa: F811
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(OSError, match="credentials") as raised:
        Url("s3://some-bucket/x.txt").open()
    assert raised.value.filename == "s3://some-bucket/x.txt"
    fsspec.filesystem("s3").clear_instance_cache()


class Failing:
    """A file whose connection breaks so many times."""

    def __init__(self, times, error):
        self.times, self.error, self.at = times, error, 0

    def seek(self, at):
        self.at = at

    def read(self, size):
        if self.times:
            self.times -= 1
            raise self.error
        return b"abcdef"[self.at : self.at + size]

    def close(self):
        pass


def test_what_breaks_on_the_way_is_read_again(monkeypatch):
    Url("memory://again/x").write_bytes(b"abcdef")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for error, times, whole in ((ConnectionResetError("reset"), 3, True), (TimeoutError(), 4, False),
                                (PermissionError(errno.EACCES, "closed"), 1, False)):  # fmt: skip
        reader = UrlReader(Url("memory://again/x"))
        reader._file = Failing(times, error)
        reader.seek(2)
        if whole:
            assert reader.read(3) == b"cde" and reader.tell() == 5
        else:
            with pytest.raises(OSError) as raised:
                reader.read(3)
            assert raised.value.filename == "memory://again/x" and reader._file.times == 0


@pytest.mark.parametrize("ranges", [True, False])
def test_a_web_server_with_and_without_ranges(tmp_path, ranges):
    content = b"".join(b"%d\n" % line for line in range(3000))
    (tmp_path / "a.txt").write_bytes(content)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            first, last = (self.headers["Range"] or "=-").split("=")[1].split("-")
            if not ranges or not first:
                return super().do_GET()
            part = content[int(first) : int(last) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = Url(f"http://127.0.0.1:{server.server_port}/a.txt")
        with url.open() as file:
            assert file.read() == content and file.seek(-5, 2) and file.read() == content[-5:]
        assert url.stat().version
        with pytest.raises(FileNotFoundError, match="no such file"):
            (url.parent / "b.txt").open()
        with pytest.raises(OSError, match="501"):
            url.write_bytes(b"")
        server.shutdown()
