"""What `rlx` writes while it works, and how it spells numbers."""

import io
import time

import pytest
from rich.console import Console

from rlx.cli import terminal


@pytest.fixture
def screen(monkeypatch) -> io.StringIO:
    """Standard error as a terminal of 80 columns."""
    written = io.StringIO()
    monkeypatch.setattr(terminal, "PATIENCE", 0.1)
    monkeypatch.setattr(terminal, "notes", lambda: Console(file=written, force_terminal=True, width=80))
    return written


def test_a_progress_bar_appears_for_work_that_takes_long(screen):
    with terminal.progress("compiling"):
        time.sleep(0.5)
    assert "compiling" in screen.getvalue()


def test_no_progress_bar_appears_for_quick_work(screen):
    with terminal.progress("compiling"):
        pass
    time.sleep(0.3)
    assert "compiling" not in screen.getvalue()


def test_a_progress_bar_ends_with_the_work_that_fails(screen):
    with pytest.raises(KeyboardInterrupt), terminal.progress("compiling"):
        time.sleep(0.3)
        raise KeyboardInterrupt
    length = len(screen.getvalue())
    time.sleep(0.3)
    assert len(screen.getvalue()) == length


def test_nobody_watching_means_no_progress_bar(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "PATIENCE", 0.01)
    with terminal.progress("compiling"):
        time.sleep(0.2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("value", "text"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.56e-5, "45.6 us"), (7e-10, "0.7 ns"), (0.0, "0 ns")]
)
def test_durations_take_the_unit_that_fits(value, text):
    assert terminal.seconds(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0 B"), (999, "999 B"), (1536, "1.5 KiB"), (25 * 2**30, "25 GiB")])
def test_bytes_take_the_unit_that_fits(value, text):
    assert terminal.size(value) == text
