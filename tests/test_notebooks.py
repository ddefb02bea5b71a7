"""Rules for committed lessons that can be read off the file, and lessons that break each of them.
No kernel.

Running them is nbval's part (`lab.py test`): it passes one whose outputs were stripped, and sees no
metadata.
"""

import ast
import html
import os
import re
import symtable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from training_reach import untagged

import lab
from tools.compare import EMBEDDED, NOTE, is_note, split, tags
from tools.notebooks import METADATA, as_text, normalise, note_text, trained_groups

# `lab.py test` names the published lessons, which a learner may have filled in.
NOTEBOOKS = [
    Path(name) for name in os.environ.get("LESSON_NOTEBOOKS", "").split(os.pathsep) if name
]
KILOBYTES = 600
TAGS = {
    "solution",
    "hide-cell",
    "hide-input",
    "raises-exception",
    "nbval-ignore-output",
    "trained",
    "varies",
}
CONTROLS = {"slider_figure", "BoxPlayground"}
AT_ONCE = {"listcomp", "setcomp", "dictcomp", "genexpr"}
SHOWS = {"print", "check", "display", "show"}
TRAININGS_TOOK = re.compile(r"the trainings took (\w+) (?:of them|more) where this page was made")
NUMBERS = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
]
MACHINE_PATH = re.compile(
    r"(?<![\w:/.])/(?:home|Users|root|tmp|var|mnt|opt|srv|work\w*)/|\b[A-Z]:\\\w"
)
BARE_WIDGET = re.compile(
    r"(?:\w*Slider|[VH]?Box|GridBox|Tab|HTML|Image|Output|interactive|\w*Button|Dropdown|\w*Text)\("
)


def code(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def statements(cell) -> list[ast.stmt]:
    """The cell's top-level statements; none where IPython's own syntax stands in it."""
    try:
        return ast.parse(cell.source).body
    except SyntaxError:
        return []


def names(cell) -> set[str]:
    """What the cell defines or assigns at its top level."""
    found = set()
    for statement in statements(cell):
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            found.add(statement.name)
        found |= {
            node.id
            for node in ast.walk(statement)
            if isinstance(statement, ast.Assign | ast.AnnAssign)
            and isinstance(node, ast.Name)
            and isinstance(node.ctx, ast.Store)
        }
    return found


def calls(cell) -> set[str]:
    """Names of the functions that stand alone on a line of the cell: `print(...)`, `plt.show()`."""
    functions = [
        statement.value.func
        for statement in statements(cell)
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    ]
    return {getattr(function, "attr", getattr(function, "id", "")) for function in functions}


def written(cell) -> str:
    """All text in the cell's outputs as it is stored, without the pictures in it."""
    texts = [
        text
        for output in cell.outputs
        for text in [
            output.get("text", ""),
            *output.get("data", {}).values(),
            *output.get("traceback", []),
        ]
    ]
    return EMBEDDED.sub("", "\n".join(map(str, texts)))


# Each rule yields the cells that break it.


def counts_run_from_one(notebook):
    """Execution counts are 1, 2, 3 ...: the notebook was run from top to bottom, and all of it."""
    return [cell for i, cell in enumerate(code(notebook), start=1) if cell.execution_count != i]


def what_shows_something_has_an_output(notebook):
    """A cell that prints, displays or checks has an output."""
    return [cell for cell in code(notebook) if calls(cell) & SHOWS and not cell.outputs]


def no_error_is_stored(notebook):
    """No exception and no warning, except in cells tagged raises-exception."""
    return [
        cell
        for cell in code(notebook)
        for output in cell.outputs
        if "raises-exception" not in tags(cell)
        and (output.output_type == "error" or "Warning" in output.get("text", ""))
    ]


def metadata_is_refreshs(notebook):
    """Metadata name the kernel python3, hold no widget state and no versions."""
    return [notebook] if notebook.metadata != METADATA else []


def normal_form(notebook):
    """The notebook is as `tools/notebooks.py refresh` writes it, which nothing else does."""
    normal = normalise(notebook)
    return [
        cell
        for cell, other in zip(notebook.cells, normal.cells)
        if as_text(new_notebook(cells=[cell])) != as_text(new_notebook(cells=[other]))
    ]


def ids_are_words(notebook):
    """Every cell has an id of its own that a person can read: `iou-by-hand`, not `3f9a61c2`."""
    ids = [cell.id for cell in notebook.cells]
    return [
        cell
        for cell in notebook.cells
        if ids.count(cell.id) > 1
        or not re.match(r"[a-z]", cell.id)
        or re.fullmatch(r"[0-9a-f]{8}([0-9a-f-]{4,})?", cell.id)
    ]


def tags_are_known(notebook):
    """A misspelt tag would do nothing, silently; a cell is of one kind."""
    return [
        cell
        for cell in notebook.cells
        if set(tags(cell)) - TAGS or {"trained", "varies"} <= set(tags(cell))
    ]


def trained_cells_are_tagged(notebook):
    """What a cell shows or asserts of a training's results moves between machines: tag it
    `trained`."""
    return untagged(notebook)


def words_are_printed_in_one_piece(notebook):
    """Nothing is printed both before and after a display: nbval sees it as one piece, in front."""

    def pieces(cell) -> int:
        return sum(o.output_type == "stream" and o.name == "stdout" for o in cell.outputs)

    compared = (cell for cell in code(notebook) if "nbval-ignore-output" not in tags(cell))
    return [cell for cell in compared if pieces(cell) > 1]


def trained_outputs_have_a_note(notebook):
    """Once in a section the page says how its trained outputs were made; only refresh writes
    that."""
    found = []
    for group in trained_groups(notebook):
        shown = [cell for cell in group if cell.outputs]
        notes = {cell.id: output for cell in shown for output in cell.outputs if is_note(output)}
        wrong = [
            note
            for note in notes.values()
            if note.data != {"text/html": note_text(note.metadata[NOTE])}
        ]
        if wrong or shown and list(notes) != [shown[0].id]:
            found.append(shown[0])
    return found


def shown_captions(cell) -> list[str]:
    """The fixed words of the captions that a cell gives to `show`, piece by piece."""
    found = list[str]()
    for node in (node for part in statements(cell) for node in ast.walk(part)):
        if not isinstance(node, ast.Call):
            continue
        if getattr(node.func, "attr", getattr(node.func, "id", "")) != "show":
            continue
        given = [word.value for word in node.keywords if word.arg == "caption"]
        pieces = [part for one in given for part in getattr(one, "values", [one])]
        found += [part.value for part in pieces if isinstance(part, ast.Constant)]
    return found


def captions_are_of_their_source(notebook):
    """What a cell shows under its figure is what its source says: of a trained cell, whose outputs
    are kept, nothing else is compared.
    """
    compared = (cell for cell in code(notebook) if "nbval-ignore-output" not in tags(cell))
    return [
        cell
        for cell in compared
        if any(piece not in html.unescape(written(cell)) for piece in shown_captions(cell))
    ]


def the_title_gives_the_minutes_of_the_notes(notebook):
    """How long the trainings took says the title as the notes below the cells do."""
    title = notebook.cells[0]
    told = TRAININGS_TOOK.search(title.source)
    if told is None:
        return []
    minutes = NUMBERS.index(told[1]) + 1 if told[1] in NUMBERS else int(told[1])
    notes = (output for cell in code(notebook) for output in cell.outputs if is_note(output))
    noted = sum(output.metadata[NOTE]["seconds"] for output in notes) / 60
    return [title] if abs(minutes - noted) > 1 else []


def no_path_of_a_machine(notebook):
    """No output tells where somebody's files lie."""
    return [cell for cell in code(notebook) if MACHINE_PATH.search(written(cell))]


def uncompared_cells_store_no_picture(notebook):
    """Where nbval compares nothing, a real picture, which is somebody else's, might have been
    stored."""
    return [
        cell
        for cell in code(notebook)
        if "nbval-ignore-output" in tags(cell)
        and (split(cell.outputs)[1] or any("svg" in kind for kind, _ in split(cell.outputs)[0]))
    ]


def widgets_have_a_still(notebook):
    """A widget that left only its description shows nothing on a page without a kernel."""
    return [
        cell
        for cell in code(notebook)
        for i, output in enumerate(cell.outputs, start=1)
        if list(output.get("data", {})) == ["text/plain"]
        and BARE_WIDGET.match(output.data["text/plain"])
        and not (
            cell.outputs[i:] and output.data["text/plain"].startswith(("Output(", "interactive("))
        )
    ]


def bound(cell) -> set[str]:
    """What the cell binds at its top level, loops included, without what it imports."""
    return stored(*statements(cell))


def stored(*nodes: ast.AST) -> set[str]:
    """Names that these nodes bind where they stand: not inside functions, nor the loops of
    comprehensions, whose names Python 3.12 lists with those around them.
    """
    found = set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif not isinstance(node, ast.Lambda | ast.comprehension):
            found |= stored(*ast.iter_child_nodes(node))
    return found


def read_later(scope: symtable.SymbolTable) -> set[str]:
    """The notebook's names that functions in `scope` look up each time they are called."""
    found = set()
    for inner in scope.get_children():
        if scope.get_type() == "module" and inner.get_name().strip("<>") in AT_ONCE:
            continue
        found |= {one.get_name() for one in inner.get_symbols() if one.is_global()}
        found |= read_later(inner)
    return found


def scope_of(cell) -> symtable.SymbolTable:
    """The names of a cell; of none where IPython's own syntax stands in it."""
    return symtable.symtable(cell.source if statements(cell) else "", "cell", "exec")


def controls_keep_what_they_draw_with(notebook):
    """A slider is moved after the whole lesson was run: no later cell may put something else under
    a name that its function reads.
    """
    cells = code(notebook)
    return [
        cell
        for i, cell in enumerate(cells, start=1)
        if calls(cell) & CONTROLS
        and read_later(scope_of(cell)) & set().union(*(bound(later) for later in cells[i:]))
    ]


def solutions_are_hidden(notebook):
    """A solution has the tags solution and hide-cell, and is collapsed in JupyterLab."""
    return [
        cell
        for cell in code(notebook)
        if ("solution" in tags(cell)) != ("hide-cell" in tags(cell))
        or "solution" in tags(cell)
        and not cell.metadata.get("jupyter", {}).get("source_hidden")
    ]


def solutions_keep_to_their_names(notebook):
    """A hidden solution that defined the learner's name would let a wrong answer pass."""
    others = set().union(*(names(cell) for cell in code(notebook) if "solution" not in tags(cell)))
    return [cell for cell in code(notebook) if "solution" in tags(cell) and names(cell) & others]


def solutions_pass_their_check(notebook):
    """Each solution is checked, and right."""
    return [
        cell
        for cell in code(notebook)
        if "solution" in tags(cell)
        and not (
            "check" in calls(cell) and "\u2713" in written(cell) and "\u2717" not in written(cell)
        )
    ]


def exercises_are_not_solved(notebook):
    """An exercise is published as an empty stub: its check says so."""
    return [
        cell
        for cell in code(notebook)
        if "check" in calls(cell)
        and "solution" not in tags(cell)
        and "not attempted" not in written(cell)
    ]


def lesson(*cells) -> nbformat.NotebookNode:
    return new_notebook(cells=list(cells), metadata=METADATA)


def cell(
    source: str = "print(1)", *outputs, id: str = "first", count: int | None = 1, tags="", **more
):
    metadata = more | ({"tags": tags.split()} if tags else {})
    outputs = list(outputs or [stream("1\n")])
    return new_code_cell(source, id=id, execution_count=count, metadata=metadata, outputs=outputs)


def stream(text: str, name: str = "stdout"):
    return new_output("stream", text=text, name=name)


def shown(**data: str):
    kinds = {"png": "image/png", "svg": "image/svg+xml", "html": "text/html", "plain": "text/plain"}
    return new_output("display_data", data={kinds[name]: value for name, value in data.items()})


MADE = {"budget": "laptop", "date": "2026-11-28", "machine": "a machine", "seconds": 30}


def note(sentence: str = note_text(MADE)):
    return new_output("display_data", data={"text/html": sentence}, metadata={NOTE: MADE})


def titled(time: str, seconds: int):
    """A lesson whose title gives a time, and whose training has a note of so many seconds."""
    made = MADE | {"seconds": seconds}
    noted = new_output("display_data", data={"text/html": note_text(made)}, metadata={NOTE: made})
    made_lesson = lesson(cell("x", noted, tags="trained"))
    made_lesson.cells.insert(0, new_markdown_cell(f"# 1\n\n**Time** {time}.", id="title"))
    return made_lesson


NOTED = note()
STUB = cell('def iou(): ...\ncheck("01.iou", iou)', stream("\u25cb not attempted yet\n"))
HIDDEN = {
    "tags": "solution hide-cell",
    "jupyter": {"source_hidden": True},
    "id": "answer",
    "count": 2,
}
SOLUTION = cell(
    'def iou_solution(): ...\ncheck("01.iou", iou_solution)', stream("\u2713 right\n"), **HIDDEN
)
DRAWS = """boxes = 1
def draw(step):
    return [boxes for _ in range(step)]
slider_figure(draw, step=(0, 4))"""
HEX = "3f9a61c2"
BROKEN = {
    counts_run_from_one: [
        lesson(cell(count=None)),
        lesson(cell(count=2)),
        lesson(cell(), cell(id="b")),
    ],
    what_shows_something_has_an_output: [
        lesson(new_code_cell(source, execution_count=1))
        for source in ("print(1)", "x = 1\nplt.show()")
    ],
    no_error_is_stored: [
        lesson(cell("1 / 0", new_output("error", ename="E", evalue="", traceback=[]))),
        lesson(cell("f()", stream("UserWarning: old\n", "stderr"))),
    ],
    metadata_is_refreshs: [
        new_notebook(metadata=METADATA | {"widgets": {}}),
        new_notebook(
            metadata=METADATA | {"kernelspec": {"name": "my-env", "display_name": "mine"}}
        ),
    ],
    normal_form: [
        lesson(cell(execution={"iopub.execute_input": "2026"})),
        lesson(cell("1", stream("a"), stream("b"))),
        lesson(
            cell(
                "w",
                new_output(
                    "display_data",
                    data={
                        "image/svg+xml": "<svg/>",
                        "application/vnd.jupyter.widget-view+json": {"model_id": "1"},
                    },
                ),
            )
        ),
    ],
    ids_are_words: [
        lesson(cell(id=HEX)),
        lesson(cell(id=f"{HEX}-aaaa-4bbb-8ccc-0123456789ab")),
        nbformat.from_dict({"cells": [new_markdown_cell("a", id="same")] * 2}),
    ],
    tags_are_known: [lesson(cell(tags="tolerence")), lesson(cell(tags="trained varies"))],
    trained_cells_are_tagged: [
        lesson(cell("loss = list(train(model, pictures))\nprint(loss)")),
        lesson(cell('ladder(Mine, until="short training")\nprint(Mine)')),
        lesson(
            cell("loss = list(train(model, pictures))", NOTED, tags="trained"),
            cell("print(f'{min(loss):.2f}')", id="second", count=2),
        ),
        lesson(
            cell("list(train(model, pictures))", NOTED, tags="trained"),
            cell("rows = [x.item() for x in model.parameters()]\nassert rows", id="b", count=2),
        ),
        lesson(
            cell("def run(m):\n    return list(train(m, x))"),
            cell("print(run(m))", id="b", count=2),
        ),
        lesson(
            cell("for x in y:\n    loss = f(x)\n    loss.backward()\n    adam.step()\nprint(loss)")
        ),
    ],
    trained_outputs_have_a_note: [
        lesson(cell("x", tags="trained")),
        lesson(cell("x", NOTED, tags="trained"), cell("x", NOTED, id="b", count=2, tags="trained")),
        lesson(cell("x", note(sentence="Trained by somebody."), tags="trained")),
    ],
    captions_are_of_their_source: [
        lesson(cell('show(f, caption=f"Left: {loss:.1f} stays.")', shown(html="Six: 1.4 stays."))),
        lesson(cell("plots.show(f, caption='Left of it')", shown(html="<em>Right of it</em>"))),
    ],
    the_title_gives_the_minutes_of_the_notes: [
        titled("about 95 minutes; the trainings took twelve of them where this page was made", 117),
        titled("about 90 minutes, and the trainings took 5 more where this page was made", 2215),
    ],
    no_path_of_a_machine: [
        lesson(cell("x", stream("saved\n/home/ann/a.png"))),
        lesson(cell("x", stream("C:\\Users\\ann"))),
        lesson(cell("x", shown(html="<a href='/tmp/a'>"))),
    ],
    uncompared_cells_store_no_picture: [
        lesson(cell("x", shown(png="aaaa"), tags="nbval-ignore-output")),
        lesson(cell("x", shown(svg="<svg/>"), tags="nbval-ignore-output")),
        lesson(
            cell(
                "x",
                shown(html="<img src='data:image/png;base64,aaaa'>"),
                tags="nbval-ignore-output",
            )
        ),
    ],
    widgets_have_a_still: [
        lesson(cell("x", shown(plain="IntSlider(value=3)"))),
        lesson(cell("x", shown(plain="Output(...)"))),
    ],
    controls_keep_what_they_draw_with: [
        lesson(cell(DRAWS, id="figure"), cell(later, id="later", count=2))
        for later in (
            "boxes = 2",
            "for boxes, other in ((1, 2),):\n    print(boxes)",
            "with f() as boxes:\n    pass",
            "boxes, other = 1, 2",
        )
    ],
    solutions_are_hidden: [
        lesson(STUB, cell(SOLUTION.source, stream("\u2713\n"), **HIDDEN | {"tags": "solution"})),
        lesson(STUB, cell(SOLUTION.source, stream("\u2713\n"), **HIDDEN | {"jupyter": {}})),
        lesson(STUB, cell(SOLUTION.source, stream("\u2713\n"), **HIDDEN | {"tags": "hide-cell"})),
    ],
    solutions_keep_to_their_names: [
        lesson(STUB, cell('def iou(): ...\ncheck("01.iou", iou)', stream("\u2713\n"), **HIDDEN)),
        lesson(
            STUB,
            cell('iou = iou_solution = abs\ncheck("01.iou", iou)', stream("\u2713\n"), **HIDDEN),
        ),
    ],
    solutions_pass_their_check: [
        lesson(STUB, cell(SOLUTION.source, stream("\u2717 two boxes\n"), **HIDDEN)),
        lesson(
            STUB, cell("def iou_solution(): ...\nprint('\u2713')", stream("\u2713\n"), **HIDDEN)
        ),
    ],
    words_are_printed_in_one_piece: [
        lesson(cell("print(reveal(1))\nprint(2)", stream("1"), shown(html="<b>"), stream("2")))
    ],
    exercises_are_not_solved: [lesson(cell(STUB.source, stream("\u2713 right\n")))],
}
GOOD = [
    lesson(cell()),
    lesson(STUB, SOLUTION),
    lesson(cell("x = 1\nx", shown(plain="1"), tags="varies")),
    lesson(cell("w", shown(plain="Output(...)"), stream("inside\n"), tags="nbval-ignore-output")),
    lesson(cell("w", shown(plain="HTML(...)", svg="<svg/>"))),
    lesson(
        cell(DRAWS, id="figure"),
        cell("def f(boxes):\n    return [step for step in boxes]\nprint(f)", id="f", count=2),
    ),
    lesson(
        cell("loss = list(train(model, pictures))\nprint(loss)", NOTED, tags="trained"),
        cell("loss = 3\nprint(loss)", id="second", count=2),
        cell("first = next(iter(train(other, pictures)))\nprint(first)", id="third", count=3),
        cell("model = build()\nprint(model)", id="fourth", count=4),
    ),
    lesson(cell('ladder(Mine, until="shapes")\nprint(Mine)', stream("x"))),
    titled("about 95 minutes; the trainings took two of them where this page was made", 117),
    titled("about 90 minutes, and the trainings took 37 more where this page was made", 2215),
    titled("about 90 minutes", 2215),
    lesson(
        cell("0", new_output("error", ename="E", evalue="", traceback=[]), tags="raises-exception")
    ),
    lesson(cell('show(f, caption=f"a net\'s {a}: x")', shown(html="a net&#x27;s 1: x"))),
    lesson(cell("x", stream("see https://example.org/home/a and 3/4 at a/tmp/b\n"))),
]


@pytest.mark.parametrize(
    ("rule", "notebook"),
    [(rule, bad) for rule, many in BROKEN.items() for bad in many],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_lesson_is_found(rule, notebook):
    assert rule(notebook)


@pytest.mark.parametrize("notebook", GOOD)
def test_a_good_lesson_breaks_no_rule(notebook):
    assert [rule.__name__ for rule in BROKEN if rule(notebook)] == []


@pytest.mark.parametrize("path", NOTEBOOKS or lab.lessons(), ids=lambda path: path.name[-30:])
def test_lesson_keeps_the_rules(path):
    notebook = nbformat.read(path, 4)
    broken = [
        f"{cell.get('id', 'notebook')}: {rule.__doc__}"
        for rule in BROKEN
        for cell in rule(notebook)
    ]
    assert not broken, "\n".join(broken)
    assert path.read_text(encoding="utf-8") == as_text(notebook), (
        "write it with tools/notebooks.py refresh"
    )
    assert path.stat().st_size < KILOBYTES * 1000, (
        f"more than {KILOBYTES} kB: fewer or smaller pictures"
    )


def test_the_loops_of_comprehensions_bind_nothing_for_later_cells():
    """Python 3.12 lists their names with those of the cell."""
    source = (
        "rows = [boxes for boxes in f()]\nfor row in rows:\n    def g(at): ...\n    cut = other = 1"
    )
    assert bound(cell(source)) == {"rows", "row", "g", "cut", "other"}
