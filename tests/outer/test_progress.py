"""Lines of progress: what fits, and what stands in the place of another."""

import io
import os
import pty
import termios

from jmeta.outer.progress import progress_text, to_standard_error
from jmeta.outer.screen import join_parts, show, terminal_columns

LINE = {"step": 1200, "split": "train", "tasks_per_second": 16.81, "left": 45.0, "loss": 1.4211,
        "accuracy": 0.3917, "horizon": 2.0812, "gradient_norm": 0.6872}  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_parts_that_do_not_fit_are_left_out_whole():
    whole = progress_text(LINE, 40000)
    for columns in range(1, len(whole) + 2):
        text = progress_text(LINE, 40000, columns)
        assert len(text) <= columns and whole.startswith(text)
        assert (
            columns < len("train 1200/40000") or text.split("  ") == whole.split("  ")[: text.count("  ") + 1]
        )
    assert progress_text(LINE, 40000, len(whole)) == whole
    assert join_parts(["abc", "d"], 4) == "abc" and join_parts(["abc", "d"]) == "abc  d"


def test_time_left_names_what_it_does_not_count():
    text = lambda **more: progress_text({**LINE, **more}, 40000)  # noqa: E731
    assert "  left 0:45 + validations and test  " in text(uncounted="validations and test")
    assert "  left at most 0:45  " in text(at_most=True) and "  left 1:00:00  " in text(left=3600)
    first = {name: value for name, value in LINE.items() if name != "left"} | {"compile_seconds": 58.44}
    assert progress_text(first, 40000).startswith("train 1200/40000  compiled in 58.4 s  loss")


def test_an_announcement_takes_the_place_of_a_line_in_place(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    to_standard_error(LINE, 40000, stream=terminal)
    show("validating", stream=terminal)
    progress, announcement = terminal.getvalue().split("\r\x1b[K")[1:]
    assert progress == "train 1200/40000  16.8 tasks/s" and announcement == "validating\n"


def test_the_width_is_that_of_the_terminal_of_the_stream(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    main, side = pty.openpty()
    try:
        with open(side, "w", closefd=False) as stream:
            termios.tcsetwinsize(side, (24, 61))
            assert terminal_columns(stream) == 61
            termios.tcsetwinsize(side, (0, 0))  # unknown
            assert terminal_columns(stream) == 50
    finally:
        os.close(main)
        os.close(side)
    assert terminal_columns(Terminal()) == 50 and terminal_columns(io.StringIO()) is None
