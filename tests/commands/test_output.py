"""What commands write and print, and where they cannot."""

import os
import pathlib
import subprocess
import sys

import pytest

from jaxsde import _write
from jaxsde._commands import _output

COMMAND = [sys.executable, "-c", "from jaxsde.cli import main; main()"]
SMALL = ["compare", "sgd", "--steps", "4", "--seeds", "4", "--substeps", "1"]
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO", "PYTHONUTF8"))}


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _shell(line, folder, **environment):
    """Runs a shell's line, in which $RUN is the command, without a terminal."""
    line = line.replace("$RUN", " ".join(f"'{part}'" for part in COMMAND))
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=PLAIN | environment, capture_output=True, stdin=subprocess.DEVNULL,
        start_new_session=True, timeout=300,
    )  # fmt: skip


def test_a_run_in_a_plain_and_narrow_terminal(tmp_path):
    narrow = dict(COLUMNS="40", NO_COLOR="1", LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    done = _shell(f"$RUN {' '.join(SMALL)}", tmp_path, **narrow)
    text = done.stdout.decode("ascii")
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    assert "+-" in text and "?" not in text and "\x1b" not in text
    words = text.partition("\n\n")[2]
    assert words and max(map(len, words.splitlines())) <= 40
    assert _names(tmp_path) == ["jaxsde-sgd-quadratic.nc", "jaxsde-sgd-quadratic.png"]


def test_help_and_errors_in_a_plain_terminal(tmp_path):
    plain = dict(COLUMNS="40", NO_COLOR="1", LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    done = _shell("$RUN compare --help && $RUN compare ±", tmp_path, **plain)
    assert done.returncode == 2 and b"Traceback" not in done.stderr and b"\x1b" not in done.stdout + done.stderr
    assert b"--force" in done.stdout and b"sign_sgd" in done.stderr
    (done.stdout + done.stderr).decode("ascii")


def test_nobody_reads_the_output(tmp_path):
    """Closed streams do no harm, not even to the files; a reader that goes ends the command quietly."""
    done = _shell(f"$RUN {' '.join(SMALL)} >&- 2>&-", tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "jaxsde-sgd-quadratic.nc").read_bytes()[:4] == b"\x89HDF"
    assert (tmp_path / "jaxsde-sgd-quadratic.png").read_bytes()[:4] == b"\x89PNG"
    done = _shell("$RUN reproduce --list | true; exit ${PIPESTATUS[0]}", tmp_path)
    assert done.returncode == 141 and done.stderr == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_output_that_cannot_be_written_is_an_error_in_a_line(tmp_path):
    done = _shell("$RUN reproduce --list > /dev/full", tmp_path)
    assert done.returncode == 1 and done.stderr == b"jaxsde: [Errno 28] No space left on device\n"


def _writers(*contents):
    return {f"run{suffix}": (lambda path, c=c: path.write_text(c)) for suffix, c in zip((".png", ".nc"), contents, strict=True)}


def test_files_get_one_number_where_a_name_is_taken(tmp_path):
    (tmp_path / "run.nc").write_text("mine")
    (tmp_path / "run-2.png").write_text("mine")
    for number in (3, 4):
        paths = _output.write_files(tmp_path, _writers("a", "b"), force=False)
        assert paths == [tmp_path / f"run-{number}.png", tmp_path / f"run-{number}.nc"]
    assert (tmp_path / "run.nc").read_text() == "mine" and (tmp_path / "run-4.nc").read_text() == "b"
    assert not (tmp_path / "run.png").exists()
    assert _output.write_files(tmp_path, _writers("c", "d"), force=True) == [tmp_path / "run.png", tmp_path / "run.nc"]
    assert (tmp_path / "run.nc").read_text() == "d"


def test_a_command_at_the_same_time_gets_another_number(tmp_path, monkeypatch):
    publish = _write.publish

    def late(written, path, *, overwrite):
        if path.name == "run.png":
            path.write_text("another's")
        publish(written, path, overwrite=overwrite)

    monkeypatch.setattr(_output, "publish", late)
    assert _output.write_files(tmp_path, _writers("a", "b"), force=False)[0] == tmp_path / "run-2.png"
    assert _names(tmp_path) == ["run-2.nc", "run-2.png", "run.png"] and (tmp_path / "run.png").read_text() == "another's"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(28, "full", "draft")])
def test_a_file_that_fails_leaves_nothing_and_the_old_ones(tmp_path, error):
    (tmp_path / "run.png").write_text("old")

    def half(path):
        path.write_text("half")
        raise error

    with pytest.raises(type(error) if isinstance(error, Exception) else error) as caught:
        _output.write_files(tmp_path, {"run.png": lambda path: path.write_text("new"), "run.nc": half}, force=True)
    assert _names(tmp_path) == ["run.png"] and (tmp_path / "run.png").read_text() == "old"
    if isinstance(error, OSError):
        assert str(tmp_path / "run.nc") in str(caught.value)


def test_where_there_are_no_links(tmp_path, monkeypatch):
    def no_links(*arguments):
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    _write.write(tmp_path / "a", lambda path: path.write_text("first"), overwrite=False)
    with pytest.raises(FileExistsError):
        _write.write(tmp_path / "a", lambda path: path.write_text("second"), overwrite=False)
    assert _names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "first"


def test_a_folder_that_cannot_be_made_or_written_to_shows_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below", "/proc/none"):
        done = _shell(f"$RUN reproduce phases --small --out {folder}", tmp_path)
        assert done.returncode == 1 and done.stdout == b"" and done.stderr.startswith(b"jaxsde: [Errno ")
    _output.prepare(tmp_path / "new" / "folder")
    assert _names(tmp_path / "new" / "folder") == []


def test_drafts_have_the_permissions_of_other_files(tmp_path):
    _write.write(tmp_path / "a", lambda path: path.write_text(""), overwrite=False)
    pathlib.Path(tmp_path / "b").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
