"""How a command ends: exit codes, errors for people and for machines, and Ctrl-C."""

import os
import signal
import subprocess
import sys
import time

import pytest

from rlx.cli import program as cli_program
from rlx.version import __version__

MISSING = ("run", "nowhere.onnx")


def test_the_version_is_printed(rlx):
    done = rlx("--version")
    assert (done.code, done.out.strip()) == (0, f"rlx {__version__}")


def test_help_works_for_every_command_and_no_command_is_misuse(rlx):
    assert rlx().code == 2
    for command in ("run", "inspect", "bench", "devices", "doctor"):
        done = rlx(command, "--help")
        assert done.code == 0
        assert "--json" in done.out


def test_a_missing_model_ends_with_1_without_a_traceback(rlx):
    done = rlx(*MISSING)
    assert done.code == 1
    assert done.err.startswith("ModelNotFound [RLX-F002]: there is no file or directory 'nowhere.onnx'")
    assert done.out == ""


def test_a_missing_device_ends_with_3_and_lists_those_that_are_here(rlx, affine):
    done = rlx("run", affine, "--device", "cuda:0")
    assert done.code == 3
    assert "cpu:0" in done.err
    assert "reference:0" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (MISSING, 1, "ModelNotFound"),
        (("run",), 2, "UsageError"),
        (("run", "m", "--input", "x"), 2, "UsageError"),
        (("run", "m", "--device", "cuda"), 3, "DeviceNotFound"),
        (("frobnicate",), 2, "UsageError"),
        (("bench", "m.rlx.txt", "--against", "onnxruntime"), 2, "UsageError"),
    ],
)
def test_with_json_an_error_is_one_document_too(rlx, arguments, code, name):
    done = rlx(*arguments, "--json")
    assert done.code == code
    error = done.document["error"]
    assert error["type"] == name
    assert error["code"].startswith("RLX-")
    assert error["message"]


def test_a_defect_of_rlx_keeps_its_traceback(rlx, affine, monkeypatch):
    def defect(path):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(cli_program, "load", defect)
    with pytest.raises(ZeroDivisionError, match="a defect"):
        rlx("run", affine)


def test_ctrl_c_ends_with_130(rlx, affine, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_program, "load", interrupt)
    done = rlx("run", affine)
    assert done.code == 130
    assert "interrupted" in done.err


#: Whoever starts the tests may have switched SIGINT off, and children inherit that.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from rlx.cli.entry import main
"""


def test_a_real_sigint_while_measuring_ends_the_process_with_130(affine, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE + "main()", "bench", str(affine), "--seconds", "60"],
        env={**os.environ, "RLX_CACHE_DIR": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Once the compiled program is in the cache, what is left to do is measuring.
    deadline = time.monotonic() + 60
    while not list((tmp_path / "cache").glob("*.rlxc")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert not [p for p in (tmp_path / "cache").glob("*") if p.name.startswith(".writing")]


#: Ctrl-C comes while the commands are being imported.
INTERRUPTED_IMPORT = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "rlx.cli.plan":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""


def test_ctrl_c_before_the_commands_are_imported_ends_with_130_too():
    script = INTERRUPTIBLE + INTERRUPTED_IMPORT + "main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_python_m_rlx_is_rlx():
    done = subprocess.run(
        [sys.executable, "-m", "rlx", "nonsense"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "rlx --help lists the commands" in done.stderr
