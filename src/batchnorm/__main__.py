"""The command line: `python -m batchnorm`. Nothing is imported before a command needs it."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from batchnorm._version import __version__
from batchnorm.demo.engines import ENGINES, Engine
from batchnorm.errors import format_error

__all__ = ["main"]


class Parser(argparse.ArgumentParser):
    """argparse's parser, with errors of one line that say what to do."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message}. Run {self.prog} --help to see what there is.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 if the demo's APIs disagree, or 2 if the command cannot be run."""
    asked, unknown = make_parser().parse_known_args(arguments)
    if unknown:
        remedy = f"Run python -m batchnorm {asked.command} --help to see what there is"
        fail(
            format_error(
                f"{' '.join(unknown)} was asked for",
                f"The command {asked.command} has no such option",
                remedy,
            )
        )
    if asked.command == "info":
        from batchnorm.demo.info import print_info

        print_info()
        return 0
    engine = ENGINES[asked.engine]
    check_needs(engine)
    check_output(asked.output)
    os.environ |= engine.environment
    from batchnorm.demo.run import run

    return run(asked.engine, asked.epochs, asked.output, asked.seed, asked.quick)


def make_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = Parser(prog="python -m batchnorm", description="Batch normalization, complete.")
    parser.add_argument("--version", action="version", version=f"batchnorm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("info", help="show versions, and which APIs are usable here")
    demo = commands.add_parser(
        "demo",
        help="train one small network through each of the APIs, then on batches of few labels",
        description="Train one small network on scikit-learn's digits: through each API of an engine, which must "
        "agree; then on minibatches of two or three labels with plain, renorm, ghost and no normalization. On "
        "TensorFlow the APIs are its four historical ones; elsewhere the framework's own layer, ours, and the "
        "pure function.",
    )
    demo.add_argument(
        "--engine",
        choices=ENGINES,
        default="tensorflow",
        metavar="ENGINE",
        help=f"framework to run on: {', '.join(ENGINES)} (default: %(default)s)",
    )
    demo.add_argument("--epochs", type=at_least(1), metavar="N", help="epochs of each training")
    demo.add_argument(
        "--output", type=Path, default=Path("demo-output"), metavar="DIR", help="folder for the picture"
    )
    demo.add_argument(
        "--seed",
        type=at_least(0),
        default=0,
        metavar="S",
        help="seed of the split, the weights and the batches",
    )
    demo.add_argument("--quick", action="store_true", help="run only a few epochs, to check that it works")
    return parser


def at_least(lowest: int) -> Callable[[str], int]:
    """A parser of whole numbers that are at least `lowest`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {lowest}")
        return int(text)

    return read


def check_needs(engine: Engine) -> None:
    """Exit with one line that names the missing packages, if the demo lacks any on this engine."""
    missing = [name for module, name in engine.needs.items() if importlib.util.find_spec(module) is None]
    if missing:
        installed = "is not installed" if len(missing) == 1 else "are not installed"
        remedy = f"Run: pip install 'batchnorm[{engine.extras}]'"
        fail(
            format_error(
                f"The demo on {engine.title} was asked for",
                f"It needs {', '.join(missing)}, which {installed}",
                remedy,
            )
        )


def check_output(folder: Path) -> None:
    """Make the folder before minutes of training, or exit with one line that says why it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("it is not writable")
    except OSError as error:
        reason = error.strerror or str(error)
        fail(
            format_error(f"--output {folder} was asked for", f"No folder there: {reason}", "Name another one")
        )


def fail(message: str) -> NoReturn:
    """End with one line and exit code 2."""
    print(f"batchnorm: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main())
