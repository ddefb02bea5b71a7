"""One-stage object detection, readable and tested: SSD and RetinaNet, from losses to evaluation.

    import lesson_lib
    samples = lesson_lib.open_dataset("smears", "train")

Every name of `__all__` is imported from its module when it is first used (PEP 562): `import
lesson_lib` costs nothing, and a script pays only for what it takes. `__init__.pyi` says which name
comes from which module (type checkers read the same file), docs/library.md what each is for.
"""

import lazy_loader

__version__ = (
    "0.1.0"  # the one place: pyproject.toml reads it here, CITATION.cff is compared with it
)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
