"""A part of a page that a tool writes, between two marks that a reader does not see."""


def put(text: str, marks: tuple[str, str], part: str) -> str:
    """`text` with `part` on lines of its own between its two marks.

    ValueError where the page lacks one of them.
    """
    before, begin, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    if not (begin and end):
        raise ValueError(f"The page has no place between {marks[0]} and {marks[1]}.")
    return f"{before}{begin}\n{part}\n{end}{after}"
