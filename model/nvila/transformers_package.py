"""The package `transformers`, imported without reading the sources of all its models.

Its `__init__` and that of `transformers.models` read some 2,200 files (40 MB) each to know which names
`from transformers import NAME` may ask for: 1.8 s of CPU. Here both are given the names of their own files alone, and
read the others when somebody asks for a name that these do not have.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "transformers"


@contextmanager
def postponed_walk() -> Iterator[None]:
    """Postpone the walk while Transformers is imported in the block. Does nothing where it was imported before.

    A version whose package is made otherwise is imported as it is.
    """
    import_utils: Any = _import_utils() if PACKAGE not in sys.modules else None
    if not hasattr(import_utils, "define_import_structure") or not hasattr(import_utils, "_LazyModule"):
        yield
        return
    models = Path(import_utils.__file__).parents[1] / "models"
    walk = _Walk(models, import_utils.define_import_structure, import_utils._LazyModule)
    import_utils.define_import_structure = walk.names_without_walk
    try:
        walk.postpone_for(importlib.import_module(PACKAGE))
        yield
    finally:
        import_utils.define_import_structure = walk.define
        # `transformers.processing_utils` makes the package anew, so the block may end with another one.
        for name in (PACKAGE, f"{PACKAGE}.models"):
            if name in sys.modules:
                walk.postpone_for(sys.modules[name])


def _import_utils() -> Any:
    """The module that makes the walk, imported while the package's own `__init__` has not run."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        return None
    package = importlib.util.module_from_spec(spec)
    vars(package)["__version__"] = metadata.version(PACKAGE)
    sys.modules[PACKAGE] = package
    try:
        return importlib.import_module(f"{PACKAGE}.utils.import_utils")
    finally:
        del sys.modules[PACKAGE]


class _Walk:
    """The walk over the folder of the models, which is made when a module is asked for a name that it does not have."""

    def __init__(self, models: Path, define: Callable[..., Any], lazy_module: Any) -> None:
        self.define = define
        self._models = models
        self._walking_module = _walking_class(lazy_module, self)

    def names_without_walk(self, path: Any, prefix: str | None = None) -> Any:
        """As Transformers' own function, but of the folder of all models no name."""
        return {frozenset(): {}} if self._is_models(path) else self.define(path, prefix=prefix)

    def postpone_for(self, module: ModuleType) -> None:
        """Let a module of Transformers walk when it is asked for a name that it does not have."""
        if not isinstance(module, self._walking_module):
            module.__class__ = self._walking_module

    def make_for(self, module: Any, lazy_module: Any) -> None:
        """Give a module the names that it would have had from the beginning."""
        prefix = None if module.__name__.endswith(".models") else "models"
        whole = lazy_module(module.__name__, module.__file__, self.define(self._models, prefix=prefix))
        module._modules |= whole._modules
        module._class_to_module |= whole._class_to_module
        module._object_missing_backend |= whole._object_missing_backend
        module._import_structure |= whole._import_structure
        module.__all__ += whole.__all__

    def _is_models(self, path: Any) -> bool:
        return Path(path) in (self._models, self._models / "__init__.py")


def _walking_class(lazy_module: Any, walk: _Walk) -> Any:
    class WalkingModule(lazy_module):  # type: ignore[misc,unused-ignore]  # a base without types
        """A lazy module of Transformers whose names of models are looked up when the first one is asked for."""

        def __getattr__(self, name: str) -> Any:
            if not name.startswith("__") and not self._knows(name):
                if _is_submodule(self, name):
                    return importlib.import_module(f"{self.__name__}.{name}")
                # Before Transformers' own search: for a tokenizer that has no name yet it asks this module for each
                # that is made alike, which asks it for the others.
                self._walk_once()
            return super().__getattr__(name)

        def __dir__(self) -> Any:
            self._walk_once()
            return super().__dir__()

        def _knows(self, name: str) -> bool:
            known = (self._modules, self._class_to_module, self._object_missing_backend, self._objects)
            return any(name in names for names in known)

        def _walk_once(self) -> None:
            if not self.__dict__.get("_has_walked"):
                self.__dict__["_has_walked"] = True
                walk.make_for(self, lazy_module)

    return WalkingModule


def _is_submodule(package: Any, name: str) -> bool:
    folder = Path(package.__path__[0])
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()
