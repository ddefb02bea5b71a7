"""Which cells of a lesson show what a training made, read off the sources: whatever a training
assigns or changes, and whatever is computed from that. What the first step alone says
(`next(train(...))`) is no training yet.
"""

import ast
import symtable
from collections.abc import Iterator

from nbformat import NotebookNode

from tools.compare import tags

#: Functions that train. A lesson's functions that call one of them join them.
TRAINERS = {"train", "ladder", "lesson_lib_command"}
#: Rungs of the ladder up to which nothing is trained.
UNTRAINED = {"shapes", "known batch"}
NESTED = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
DEFINITIONS = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
NOT_COMPARED = {"trained", "varies", "nbval-ignore-output"}


class Names(ast.NodeVisitor):
    """Names read and bound outside functions, in the order of evaluation."""

    def __init__(self) -> None:
        self.reads: set[str] = set()
        self.bound: dict[str, int] = {}  # name: line where it is bound first

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.bound.setdefault(node.id, node.lineno)
        elif node.id not in self.bound:
            self.reads.add(node.id)

    def visit_in_order(self, *nodes: ast.AST) -> None:
        for node in nodes:
            self.visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit_in_order(node.value, *node.targets)

    def visit_For(self, node: ast.For) -> None:
        self.visit_in_order(node.iter, node.target, *node.body, *node.orelse)

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            self.bound.setdefault(node.name, node.lineno)
        if isinstance(node, ast.alias):
            self.bound.setdefault((node.asname or node.name).split(".")[0], node.lineno)
        if hasattr(node, "generators"):  # a comprehension's first iterable is read outside of it
            self.visit(node.generators[0].iter)
        if not isinstance(node, NESTED):
            super().generic_visit(node)


def scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    """Every function, class and comprehension inside a piece of code."""
    for child in table.get_children():
        yield child
        yield from scopes(child)


def reads_and_binds(source: str) -> tuple[set[str], set[str]]:
    """Names that a piece of a cell takes from before, functions' bodies included, and names that it
    binds."""
    names = Names()
    names.visit(ast.parse(source))
    later = {
        symbol.get_name()
        for scope in scopes(symtable.symtable(source, "cell", "exec"))
        for symbol in scope.get_symbols()
        if symbol.is_global()
        and names.bound.get(symbol.get_name(), scope.get_lineno() + 1) > scope.get_lineno()
    }
    return names.reads | later, set(names.bound)


def trainings(tree: ast.AST, trainers: set[str]) -> list[ast.Call]:
    """Calls in a piece of code that train: of a trainer, or of an optimizer's `step` beside a
    `backward`.

    `model.train()` is none, and neither is a call of which only the first step is asked, nor a
    ladder that ends at one of UNTRAINED.
    """
    calls = {id(node): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    named = {key: getattr(c.func, "attr", getattr(c.func, "id", "")) for key, c in calls.items()}
    first_steps = {
        id(inner) for key, call in calls.items() if named[key] == "next" for inner in ast.walk(call)
    }
    loop = "backward" in named.values()
    return [
        call
        for key, call in calls.items()
        if (
            named[key] in trainers
            and (call.args or named[key] != "train")
            and key not in first_steps
            and not _ends_untrained(call)
        )
        or (loop and named[key] == "step")
    ]


def _ends_untrained(call: ast.Call) -> bool:
    """Is this `ladder(..., until="shapes")`?"""
    until = [word.value for word in call.keywords if word.arg == "until"]
    return any(isinstance(value, ast.Constant) and value.value in UNTRAINED for value in until)


def untagged(notebook: NotebookNode) -> list[NotebookNode]:
    """Cells that show or assert something that depends on a training, and whose tags do not say
    so."""
    made: set[str] = set()  # names that hold what a training made
    trainers, found = set(TRAINERS), []
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        reached = False
        for statement in ast.parse(cell.source).body:
            source = ast.unparse(statement)
            reads, binds = reads_and_binds(source)
            calls = trainings(statement, trainers)
            if isinstance(statement, DEFINITIONS):
                trainers |= binds if calls else set()
                made = made | binds if reads & made else made - binds
                continue
            depends = bool(calls or reads & made)
            reached |= depends
            made = made | binds if depends else made - binds
            made |= {
                name.id
                for call in calls
                for argument in call.args[:1]
                for name in ast.walk(argument)
                if isinstance(name, ast.Name) and name.id in reads
            }
        if reached and not NOT_COMPARED & set(tags(cell)):
            found.append(cell)
    return found
