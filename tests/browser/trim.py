"""The few cells of a lesson that one of them needs: a page with a slider opens without its
trainings.
"""

import symtable

from nbformat import NotebookNode


def needed(notebook: NotebookNode, wanted: str) -> set[str]:
    """Ids of the code cells that bind, directly or by way of others, a name that cell `wanted`
    uses; and its own.
    """
    cells = [
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and "solution" not in cell.metadata.get("tags", [])
    ]
    number = next(i for i, cell in enumerate(cells) if cell.id == wanted)
    kept, names = set(), set()
    for cell in reversed(cells[: number + 1]):
        bound, used = bound_and_used(cell.source)
        if cell.id == wanted or bound & names:
            kept.add(cell.id)
            names = (names - bound) | used
    return kept


def bound_and_used(source: str) -> tuple[set[str], set[str]]:
    """The names that a cell leaves behind, and those that it takes from cells before it."""
    top = symtable.symtable(source, "cell", "exec")
    bound = {
        s.get_name()
        for s in top.get_symbols()
        if s.is_assigned() or s.is_imported() or s.is_namespace()
    }
    used, todo = (
        {s.get_name() for s in top.get_symbols() if s.is_referenced()},
        list(top.get_children()),
    )
    while todo:
        inner = todo.pop()
        used |= {s.get_name() for s in inner.get_symbols() if s.is_global() and s.is_referenced()}
        todo += inner.get_children()
    return bound, used - bound
