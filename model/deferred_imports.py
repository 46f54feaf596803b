"""Imports that wait until what they give is first used: for libraries that import at their top what few callers need.

    with deferred_imports(("torch.distributed.tensor",)):
        import transformers.modeling_utils

Inside the block `from torch.distributed.tensor import DTensor` imports nothing and gives a `DeferredName`. To call it,
to read from it, to inherit from it and to test for it has the effect that it would have after the real import. Nothing
is made out to be missing: a process that needs the module has the whole of it.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class DeferredName:
    """A module, or a name in one, that is imported when it is first used."""

    def __init__(self, finder: _DeferringFinder, module: str, name: str | None = None) -> None:
        self._finder = finder
        self._module = module
        self._name = name

    def _real(self) -> Any:
        # Not this module alone: what it imports of the others has to be real as well.
        self._finder.stop()
        module = importlib.import_module(self._module)
        return module if self._name is None else getattr(module, self._name)

    def __getattr__(self, attribute: str) -> Any:
        if attribute in ("_finder", "_module", "_name"):  # a copy that is not filled in yet
            raise AttributeError(attribute)
        return getattr(self._real(), attribute)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call what is deferred; a mark only hands back what it decorates, without the import."""
        if f"{self._module}.{self._name}" in self._finder.marks and not self._is_imported():
            decorated = arguments[0] if arguments else None
            return decorated if decorated is not None else lambda function: function
        return self._real()(*arguments, **named)

    def __getitem__(self, key: Any) -> Any:
        return self._real()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._real())

    def __contains__(self, item: Any) -> bool:
        return item in self._real()

    def __len__(self) -> int:
        return len(self._real())

    def __bool__(self) -> bool:
        return bool(self._real())

    def __or__(self, other: Any) -> Any:
        """A type of an annotation, which nobody looks at."""
        return Any

    def __ror__(self, other: Any) -> Any:
        return Any

    def __instancecheck__(self, instance: Any) -> bool:
        return self._is_imported() and isinstance(instance, self._real())

    def __subclasscheck__(self, subclass: type) -> bool:
        return self._is_imported() and issubclass(subclass, self._real())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._real(),)

    def _is_imported(self) -> bool:
        """A class of a module that nobody has imported has no instances, and none is imported to look for them."""
        return not isinstance(sys.modules.get(self._module), (_DeferredModule, type(None)))


class _DeferredModule(ModuleType):
    """Stands for a module while its import is deferred."""

    finder: _DeferringFinder

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return DeferredName(self.finder, self.__name__, name)


class _DeferringFinder(MetaPathFinder, Loader):
    """Gives a `_DeferredModule` for each of the named modules and for what lies in them."""

    def __init__(self, names: Sequence[str], marks: Sequence[str]) -> None:
        self._names = tuple(names)
        self.marks = marks
        self._guard = threading.RLock()

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """The stand-in of a deferred module; None for any other, which the next finder finds."""
        is_deferred = any(f"{fullname}.".startswith(f"{name}.") for name in self._names)
        return ModuleSpec(fullname, self, is_package=True) if is_deferred else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make the stand-in."""
        module = _DeferredModule(spec.name)
        module.finder = self
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: a stand-in holds nothing."""

    def stop(self) -> None:
        """From now on import everything when it is asked for."""
        with self._guard:
            self._names = ()
            for name in [name for name, module in sys.modules.items() if isinstance(module, _DeferredModule)]:
                del sys.modules[name]
                package, _, leaf = name.rpartition(".")
                if package in sys.modules:
                    # The package has promised it: reading it there imports it, and a real import puts itself here.
                    setattr(sys.modules[package], leaf, DeferredName(self, name))


@contextmanager
def deferred_imports(names: Sequence[str], marks: Sequence[str] = ()) -> Iterator[None]:
    """Defer imports of some modules and of everything in them until the block ends; what is imported already stays.

    Parameters
    ----------
    names
        The modules. Names that are read from them inside the block import at their first use, also after it.
        `isinstance` of a class in one is False as long as nobody has imported the module, so name the module that
        defines the class.
    marks
        Decorators in these modules that only tell another part of the library about a function. Inside the block, and
        until the module is imported, they return the function as it is.
    """
    finder = _DeferringFinder(names, marks)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        finder.stop()
