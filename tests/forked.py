"""Runs programs in processes of their own whose framework is already imported: forks of one that has imported it.

    ran = forked.run(["tensorflow"], "-c", source)

gives what `subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)` gives, without the seconds
that the import takes. The process that forks has imported the modules and done nothing else, so there are no devices
and no pools of threads yet. Each set of modules and variables has one such process, started on
first use and kept to the end.

A test that is about the import itself, or about what it prints, starts a process of its own.
"""

import atexit
import gc
import os
import signal
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import ModuleType

from originals.worker import read_message, write_message

LIMIT = 300  # seconds that a program may run

_parents: dict[tuple, subprocess.Popen] = {}


def run(modules, *command, cwd=None, env=None):
    """`command` is what Python's command line takes: -c SOURCE or FILE, and arguments.

    `env` holds the variables that differ from this process's. They are set before the modules are imported.
    """
    env = env or {}
    key = tuple(modules), tuple(sorted(env.items()))
    if key not in _parents:
        _parents[key] = subprocess.Popen(
            [sys.executable, __file__, *modules],
            env=os.environ | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    parent = _parents[key]
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        write_message(parent.stdin, ([str(word) for word in command], str(cwd or Path.cwd()), out, err))
        code = read_message(parent.stdout)
        if code is None:
            raise RuntimeError(f"the process that imports {', '.join(modules)} has ended")
        return subprocess.CompletedProcess(command, code, out.read_text(), err.read_text())


@atexit.register
def close_all():
    while _parents:
        _, parent = _parents.popitem()
        parent.stdin.close()
        parent.wait()
        parent.stdout.close()


def main(modules):
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keeps what imports print out of the answers
    for name in modules:
        import_module(name)
    gc.freeze()  # so that the collector does not make forks copy these objects
    while (request := read_message(requests)) is not None:
        child = os.fork()
        if not child:
            become(*request)
            return
        write_message(answers, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def become(command, cwd, out, err):
    """In a fork: run the program as Python would, and return to end as Python would."""
    signal.alarm(LIMIT)
    for descriptor, file in enumerate([os.devnull, out, err]):
        opened = os.open(file, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(cwd)
    main = sys.modules["__main__"] = ModuleType("__main__")
    if command[0] == "-c":
        source, name, folder = command.pop(1), "<string>", ""
    else:
        source, name, folder = Path(command[0]).read_text(), command[0], str(Path(command[0]).parent)
        main.__file__ = name
    sys.argv, sys.path[0] = command, folder
    exec(compile(source, name, "exec"), vars(main))


if __name__ == "__main__":
    main(sys.argv[1:])
