"""`python -m benchmarks`: time every case in every framework, print a table, write docs/performance.md and a picture.

Each framework runs in a process of its own, in which its competitors take turns. For single layers glibc's allocator is
told to keep large buffers, for all alike: by default it hands them back to the system at each free, and page faults
would drown the kernels. Whole networks run in another process, with the allocator as every program has it.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.progress import Progress

from benchmarks.cases import CASES, NETWORKS, OPTIONS, SHAPES, Case, Phase
from benchmarks.measure import Row
from benchmarks.report import markdown, picture, table
from benchmarks.worker import FRAMEWORKS

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
    # Threads besides the main one would get arenas that hold no buffer of more than 64 MB.
    "MALLOC_ARENA_MAX": "1",
}


def main() -> None:
    asked = _parse()
    rows: list[Row] = []
    with Progress(console=Console(stderr=True)) as progress:
        for framework in asked.frameworks:
            cases = [n for n, case in enumerate(CASES) if _is_asked(case, asked) and case.runs_in(framework)]
            if not cases:
                continue
            task = progress.add_task(framework, total=len(cases))
            layers = [number for number in cases if not CASES[number].network]
            networks = [number for number in cases if CASES[number].network]
            for some, allocator in ((layers, ALLOCATOR), (networks, {})):
                for row in _run(framework, some, asked.rounds, asked.threads, allocator) if some else ():
                    rows.append(row)
                    progress.advance(task)
            # After each, so that nothing is lost if a later one is stopped.
            _write(rows, asked)
    if not rows:
        raise SystemExit("benchmarks: none of the chosen frameworks has such a row")
    Console().print(table(rows))
    print(f"written to {asked.output}, with a picture beside it")


def _write(rows: Sequence[Row], asked: argparse.Namespace) -> None:
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    drawn = asked.output.with_suffix(".png")
    picture(rows, drawn)
    asked.output.write_text(markdown(rows, asked.threads, asked.rounds, ALLOCATOR, drawn.name))


def _run(
    framework: str, cases: Sequence[int], rounds: int, threads: int, allocator: Mapping[str, str]
) -> Iterator[Row]:
    environment = (
        os.environ | allocator | {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": FRAMEWORKS[framework][1]}
    )
    environment |= {"OMP_NUM_THREADS": str(threads), "BATCHNORM_NUM_THREADS": str(threads)}
    numbers = [str(number) for number in cases]
    command = [sys.executable, "-m", "benchmarks.worker", framework, "--rounds", str(rounds)]
    command += ["--threads", str(threads), "--cases", *numbers]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as worker:
        for line in worker.stdout or ():
            found = json.loads(line)
            yield Row(**{**found, "case": CASES[found["case"]]})
    if worker.returncode:
        raise SystemExit(
            f"benchmarks: {framework} ended with code {worker.returncode}; its message stands above"
        )


def _is_asked(case: Case, asked: argparse.Namespace) -> bool:
    return (
        (not asked.shapes or case.shape_name in asked.shapes)
        and (not asked.options or case.option in asked.options)
        and (not asked.phases or case.phase in asked.phases)
        and (not asked.networks or case.network in asked.networks)
        and (not asked.quick or case.phase == "training step")
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="training steps only")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, help="only these")
    parser.add_argument("--options", nargs="+", choices=OPTIONS, help="only these")
    parser.add_argument("--phases", nargs="+", choices=get_args(Phase), help="only these")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="only these, no single layers")
    parser.add_argument(
        "--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS), help="only these"
    )
    parser.add_argument(
        "--rounds", type=int, default=11, help="how often each is timed, in turns (default: 11)"
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of each framework (default: all)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("docs/performance.md"), help="where the page goes"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
