"""Runs scenarios in workers: `run("original", "tf1", "v1.numeric", case=...)`."""

import atexit
import os
import subprocess
import sys
from pathlib import Path

from originals.sides import ALIASES, MODES, SIDES, environment
from originals.worker import read_message, write_message

TESTS = Path(__file__).resolve().parents[1]


class ScenarioError(Exception):
    """A scenario raised in its worker. `error` is the exception's type name."""

    def __init__(self, where, reply):
        self.error, self.message = reply["error"], reply["message"]
        super().__init__(f"{where}: {reply['traceback']}\n--- the worker's log ends with ---\n{reply['log']}")


class Worker:
    """One process for one side and mode, started on first use and kept."""

    def __init__(self, side, mode):
        env = environment(side)
        env["PYTHONPATH"] = os.pathsep.join([str(TESTS), *filter(None, [env.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "originals.worker", side, mode]
        self.where = f"{side} {mode}"
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, cwd=TESTS
        )

    def run(self, scenario, params):
        module, function = scenario.split(".")
        write_message(self.process.stdin, (f"originals.scenarios_{module}", function, params))
        reply = read_message(self.process.stdout)
        if reply is None:
            raise RuntimeError(
                f"the worker {self.where} died in {scenario} with status {self.process.wait()}"
            )
        if not reply["ok"]:
            raise ScenarioError(f"{self.where} {scenario}", reply)
        return reply["value"]

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_workers: dict[tuple[str, str], Worker] = {}


def run(side, mode, scenario, /, **params):
    """The result of `scenarios_<module>.<function>(api, **params)` on a side and in a mode."""
    side = ALIASES.get(side, side)
    if side not in SIDES or mode not in MODES:
        raise ValueError(f"no worker for side {side!r} in mode {mode!r}: sides are {SIDES}, modes {MODES}")
    worker = _workers.get((side, mode))
    if worker is None or worker.process.poll() is not None:
        worker = _workers[side, mode] = Worker(side, mode)
    return worker.run(scenario, params)


@atexit.register
def close_all():
    while _workers:
        _workers.popitem()[1].close()
