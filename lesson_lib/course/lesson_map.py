"""The map of the course, with what its reader has done so far: the README's table of lessons, and
`course.progress` beside each.
"""

import re
from html import escape
from typing import NamedTuple

from IPython.display import HTML, display

from lesson_lib.config import REPOSITORY
from lesson_lib.course import progress

#: A row of the README's table: link, modules, what one can do afterwards, minutes.
ROW = re.compile(r"^\| \[(.+?)\]\(notebooks/(\S+?)\) \| .*? \| (.*?) \| (\d+) \|$", re.MULTILINE)


class Row(NamedTuple):
    """A lesson: its title, its file in notebooks/, what one can do afterwards, minutes, and what
    is done of it.
    """

    title: str
    file: str
    afterwards: str
    minutes: int
    done: str


def rows() -> list[Row]:
    """The lessons in their order. ValueError where the README has no such table."""
    done = progress.summary()
    table = ROW.findall((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    if not table:
        raise ValueError("README.md has no table of lessons: take it anew from the repository.")
    return [
        Row(title, file, afterwards, int(minutes), _done(done.get(file[:2])))
        for title, file, afterwards, minutes in table
    ]


def lesson_map() -> None:
    """Shows the table: lesson, what one can do afterwards, minutes, done so far."""
    head = "".join(f"<th>{name}</th>" for name in ("lesson", "afterwards you can", "min", "done"))
    body = "".join(
        f'<tr><td style="text-align:left;white-space:nowrap"><a href="{row.file}">'
        f'{escape(row.title)}</a></td><td style="text-align:left">{escape(row.afterwards)}</td>'
        f"<td>{row.minutes}</td><td>{row.done}</td></tr>"
        for row in rows()
    )
    display(HTML(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"))


def _done(row: dict[str, int] | None) -> str:
    if row is None:
        return ""
    return f"{row['solved']} solved, {row['hits']} of {row['guessed']} guesses hit"
