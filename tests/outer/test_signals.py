"""What a signal is answered, and how the program ends, also while the main thread is in compiled code."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jmeta.outer.signals import Stopped, end_on_signals, promising, stop_on_signals

# Seconds in one call of C, which no Python handler interrupts; it lets other threads run.
BUSY = "hashlib.pbkdf2_hmac('sha256', b'a', b'b', 40_000_000)"


def test_the_innermost_promise_is_made_and_the_flag_is_that_of_the_loop(capfd):
    with end_on_signals(lambda: "ends"), stop_on_signals("after the step") as stopped:
        with promising("after the validation"):
            os.kill(os.getpid(), signal.SIGTERM)
        assert stopped() == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)  # the promise stands
    assert capfd.readouterr().err == "\nafter the validation; Ctrl-C stops at once\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_phase_that_a_signal_ends(number, capfd):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with (
        pytest.raises(Stopped) as stop,
        end_on_signals(lambda: "stopped; nothing is lost"),
        promising("a promise without a loop"),
    ):
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert stop.value.number == number
    assert capfd.readouterr().err == "\nstopped; nothing is lost\n"
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def test_after_the_loop_the_outer_phase_answers_again(capfd):
    with pytest.raises(Stopped), end_on_signals(lambda: "ends"):
        with stop_on_signals() as stopped:
            assert stopped() is None
        os.kill(os.getpid(), signal.SIGTERM)
    assert capfd.readouterr().err == "\nends\n"


def busy_program(body):
    """Run a program that is busy in C within `body`; return the process once it is."""
    code = f"""
import hashlib, sys
from jmeta.outer.signals import end_on_signals, stop_on_signals
with {body}:
    print("busy", file=sys.stderr, flush=True)
    {BUSY}
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "busy\n"
    return process


def test_a_signal_ends_a_main_thread_that_no_handler_reaches():
    process = busy_program("end_on_signals(lambda: 'ended while compiling')")
    with process:
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() + process.stderr.readline() == "\nended while compiling\n"
        assert process.poll() is None  # the line comes first
        assert process.wait() == 128 + signal.SIGTERM


def test_a_second_ctrl_c_ends_it_at_once():
    process = busy_program("stop_on_signals('stopping after the steps')")
    with process:
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline() + process.stderr.readline() == (
            "\nstopping after the steps; Ctrl-C stops at once\n"
        )
        process.send_signal(signal.SIGINT)
        assert process.wait() == 128 + signal.SIGINT
