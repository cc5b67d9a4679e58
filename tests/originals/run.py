"""One case by hand: `python -m originals.run v1 v1-031 ours tf1`, from the folder `tests`.

Suites: v1, contrib, tf_keras, keras3, graph, errors, edge, tracking; the id may be a pattern such as 'v1-0*'.
Prints the differences between that side and what is expected of it, and the deviations that were applied.
"""

import argparse
import fnmatch

from parity import deviations, discrete, golden

DISCRETE = {"graph": "graph_effects", "errors": "errors", "edge": "edge", "tracking": "tracked_scopes"}


def records(suite):
    return discrete.records(DISCRETE[suite]) if suite in DISCRETE else golden.records(suite)


def checks(suite, record, side, mode):
    """(label, rules' suite, a function that lists the differences), one for each recorded column."""
    if suite == "graph":
        yield "", "graph", lambda: discrete.graph(record, side, mode)
    elif suite == "tracking":
        yield "", "tracking", lambda: discrete.tracked(record, side, mode)
    elif suite in ("errors", "edge"):
        columns, check = (
            (discrete.ERRORS, discrete.error) if suite == "errors" else (discrete.EDGES, discrete.edge)
        )
        for column in record["outcome"]:
            if column in columns and columns[column][2] == mode:
                if side.startswith("ours") and columns[column][3] == "errors_keras":
                    yield "keras", "errors_keras", lambda: discrete.keras_error(record, side, mode)
                    return
                yield column, columns[column][3], lambda column=column: check(record, side, mode, column)
    else:
        yield "", suite, lambda: golden.check(suite, record, side, mode)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", choices=[*golden.SUITES, *DISCRETE])
    parser.add_argument("id")
    parser.add_argument("side", choices=["ours", "ours_legacy", "original", "keras3"])
    parser.add_argument("mode", choices=["tf1", "tf2"])
    parser.add_argument("--quiet", action="store_true", help="only the ids that differ")
    asked = parser.parse_args()
    found = [r for id_, r in records(asked.suite).items() if fnmatch.fnmatch(id_, asked.id)]
    bad = 0
    for record in found:
        for label, rules_of, check in checks(asked.suite, record, asked.side, asked.mode):
            bad += report(record, label, rules_of, check, asked)
    print(f"{len(found)} records, {bad} differ")
    return 1 if bad or not found else 0


def report(record, label, rules_of, check, asked):
    try:
        differences = check()
    except Exception as error:
        differences = [f"raised: {str(error) if not asked.quiet else str(error)[-200:]}"]
    name = f"{record['id']} {label}".strip()
    if not differences:
        return 0
    print(f"{name}: {len(differences)} differences")
    if not asked.quiet:
        about = {k: v for k, v in record.items() if k not in ("expect", "case", "result", "outcome", "id")}
        print(f"  {about}")
        if asked.side.startswith("ours"):
            for rule in deviations.rules(rules_of, record, asked.mode):
                print(f"  deviation: {rule.reason}")
        print(*(f"  {d}" for d in differences), sep="\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
