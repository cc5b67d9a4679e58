"""`python -m benchmarks`: time every case, print a table, write docs/performance.md.

The script starts itself again with glibc's allocator told to keep large buffers, for all competitors alike: by default
it hands them back to the system at each free, and page faults would drown the kernels.
"""

import argparse
import os
import sys
from pathlib import Path

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}


def main() -> None:
    arguments = _parse()
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.environ.update(ALLOCATOR, TF_CPP_MIN_LOG_LEVEL="3")
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]])

    import tensorflow as tf
    from rich.console import Console
    from rich.progress import track

    from benchmarks.cases import CASES
    from benchmarks.measure import measure
    from benchmarks.report import markdown, table

    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    cases = [case for case in CASES if not arguments.shapes or case.shape_name in arguments.shapes]
    if arguments.quick:
        cases = [case for case in cases if case.phase == "training step"]
    rows = [
        measure(case, arguments.rounds) for case in track(cases, "Measuring", console=Console(stderr=True))
    ]
    Console().print(table(rows))
    page = markdown(rows, arguments.threads, arguments.rounds, ALLOCATOR)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(page)
    print(f"written to {arguments.output}")


def _parse() -> argparse.Namespace:
    from benchmarks.cases import SHAPES

    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="training steps only")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, help="only these")
    parser.add_argument(
        "--rounds", type=int, default=15, help="how often each is timed, in turns (default: 15)"
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="TensorFlow's threads (default: all)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("docs/performance.md"), help="where the page goes"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
