"""A program of several processes that meet and watch each other, without jax, for the tests."""

import ctypes
import os
import signal
import sys
import time

from jmeta.outer import watch as watching
from jmeta.outer.rendezvous import Place, meet


def main(address, number, index, action, status):
    watching._BEAT, watching._SILENCE, watching._AFTER_FAILURE = 0.2, 3.0, 1.0
    place = Place(address, number, index)
    connections = meet(place, seconds=30, report=print)
    watch = watching.Watch(index, number, connections, prefix="toy: ", advice=lambda: "start again")
    if action == "kill":
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    if action == "abort":
        ctypes.CDLL(None).abort()
    if action == "leave":
        together = watch.leave(status)
        print("together" if together else "alone", flush=True)
        time.sleep(0.3)  # instead of jax's farewell
        os._exit(status)
    time.sleep(60)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5]))
