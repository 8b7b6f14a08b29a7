"""metrics.jsonl, TensorBoard events and progress."""

import errno
import io
import json
import os

import pytest

from jmeta.outer import metrics_log
from jmeta.outer.metrics_log import MetricsLog, read_metrics
from jmeta.outer.progress import progress_text, to_standard_error


def line(step, split="train", **metrics):
    return {"step": step, "split": split, "loss": 1 / step, **metrics}


def write(directory, start, *lines):
    log = MetricsLog(directory)
    log.start(start)
    for each in lines:
        log.write(each)
    return log


def test_lines_return_as_written_and_at_once(tmp_path):
    lines = [line(1, accuracy=0.1), line(2), line(2, "validation", accuracy=1 / 3)]
    log = write(tmp_path, 0, *lines)
    assert read_metrics(log.path) == lines
    log.close()


def test_what_is_not_finite_is_null(tmp_path):
    log = write(tmp_path, 0, line(1, error=float("inf"), by_seed=[1.0, float("nan")]))
    assert read_metrics(log.path) == [line(1, error=None, by_seed=[1.0, None])]
    log.close()


@pytest.mark.parametrize("torn", ["", '{"step": 9, "spl', '{"step": 9}', "\x00\x00"])
def test_a_resumed_log_is_cut_back_and_goes_on(tmp_path, torn):
    log = write(tmp_path, 0, *(line(step) for step in (2, 4, 6, 8)))
    log.close()
    with log.path.open("a") as file:
        file.write(torn)
    assert [record["step"] for record in read_metrics(log.path)] == [2, 4, 6, 8]
    write(tmp_path, 5, line(6, again=1)).close()
    assert read_metrics(log.path) == [line(2), line(4), line(6, again=1)]
    assert log.path.read_text() == "".join(json.dumps(each) + "\n" for each in read_metrics(log.path))
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "tensorboard"}


def test_a_run_without_a_checkpoint_starts_its_log_anew(tmp_path):
    write(tmp_path, 0, line(1), line(2)).close()
    write(tmp_path, 0, line(1, new=1)).close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [line(1, new=1)]


@pytest.mark.parametrize(
    "damage",
    ["nonsense", "\x00" * 512, "{}", "3", "[]", "null", '{"step": 2}', '{"step": "2", "split": "train"}',
     "[" * 100_000, '{"step": true, "split": "train"}', '{"step": 2, "split": 3}', '{"step": 2, "split": "tr',
     "9" * 5000],
)  # fmt: skip
def test_a_damaged_line_is_left_out_with_a_warning(tmp_path, capsys, damage):
    """And a run goes on after it."""
    path = tmp_path / "metrics.jsonl"
    whole = [json.dumps(line(step)) for step in (1, 2, 3)]
    path.write_text("\n".join([whole[0], damage, damage, *whole[1:], ""]))
    assert read_metrics(path) == [line(1), line(2), line(3)]
    assert capsys.readouterr().err == f"{path}: left out 2 damaged lines, the first is line 2\n"
    write(tmp_path, 2, line(3, again=1)).close()
    capsys.readouterr()
    assert read_metrics(path) == [line(1), line(2), line(3, again=1)] and not capsys.readouterr().err


def test_no_file_is_no_lines(tmp_path):
    assert read_metrics(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("place", ["metrics.jsonl", "tensorboard", "."])
def test_what_cannot_be_written_is_named(tmp_path, place):
    """A folder in the place of a file, and files in the place of folders."""
    directory = tmp_path / "run"
    path = directory / place
    if place == "metrics.jsonl":
        path.mkdir(parents=True)
    else:
        directory.mkdir(exist_ok=True) if place != "." else None
        path.touch()
    log = MetricsLog(directory)
    with pytest.raises(OSError, match=f": '{path}'$"):
        log.start(0)
    log.close()


def test_a_full_disk_is_named_and_neither_hangs_nor_hides(tmp_path, monkeypatch):
    from tensorboardX.event_file_writer import EventsWriter

    log = write(tmp_path, 0)

    def full(self, event):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(EventsWriter, "write_event", full)
    for _ in range(20):
        with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/tensorboard'"):
            log.write(line(1))
    log.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_events_are_what_tensorboard_reads(tmp_path):
    """With what a restart repeats purged."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, 0, line(1), line(2), line(2, "validation", accuracy=0.5)).close()
    write(tmp_path, 1, line(2, extra=7.0), line(3)).close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= {"train/loss", "train/extra"}
    losses = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert losses == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics_log.jax, "process_index", lambda: 1)
    write(tmp_path / "other", 0, line(1)).close()
    assert not (tmp_path / "other").exists()


def test_progress_says_rate_time_left_and_metrics():
    timed = line(50, accuracy=0.25, horizon=12.5, tasks_per_second=8.25, left=3900.0, uncounted="test")
    assert progress_text(timed, 2000).split("  ") == [
        "train 50/2000", "8.2 tasks/s", "left 1:05:00 + test", "loss 0.02", "accuracy 0.25", "horizon 12.5",
    ]  # fmt: skip
    assert progress_text(line(50, "validation", accuracy=0.5), 2000).endswith("loss 0.02  accuracy 0.5")


def test_progress_is_in_place_on_a_terminal_alone():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    plain, terminal = io.StringIO(), Terminal()
    for each in (line(1), line(1, "validation"), line(2)):
        to_standard_error(each, 2, stream=plain)
        to_standard_error(each, 2, stream=terminal)
    assert plain.getvalue().splitlines() == [
        "train 1/2  loss 1", "validation 1/2  loss 1", "train 2/2  loss 0.5",
    ]  # fmt: skip
    assert terminal.getvalue().count("\n") == 2 and terminal.getvalue().count("\r") == 3
