"""Writes docs/combinations.md from the table that the package itself checks by: `python docs/make_combinations.py`."""

from pathlib import Path

from batchnorm.combinations import table

HEAD = """# Which options go together

Made by `python docs/make_combinations.py` from `batchnorm.combinations`, the table that the package checks by.
Every pair works unless it says otherwise; a refused pair is refused at construction, with this reason.

| option | with | answer |
|---|---|---|
"""


def page() -> str:
    """The page as it should be."""
    rows: list[str] = []
    for first, second, verdict in table():
        answer = "works" if verdict.works else "**refused**"
        note = f": {verdict.note[0].lower()}{verdict.note[1:]}" if verdict.note else ""
        rows.append(f"| {first} | {second} | {answer}{note} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    Path(__file__).with_name("combinations.md").write_text(page())
