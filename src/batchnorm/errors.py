"""How every refusal is worded: what was asked, why it cannot be done, what to do instead."""

__all__ = ["format_error"]


def format_error(asked: str, why: str, remedy: str) -> str:
    """The three parts of an error message as one text; the caller raises it with the type it promises."""
    return f"{asked.rstrip('.')}. {why.rstrip('.')}. {remedy.rstrip('.')}."
