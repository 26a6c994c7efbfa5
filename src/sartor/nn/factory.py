"""Factories: Python functions, named by the user, that return a module."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from sartor.core.errors import FamilyError, SartorError, nearest

__all__ = ["call_factory", "import_factory"]


def import_factory(path: str) -> Callable[..., Any]:
    """Import ``package.module:function``.

    Raises:
        FamilyError: the path is not of that form, or there is no such function.
    """
    module, _, name = path.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), name]):
        raise FamilyError(
            f"The factory {path!r} is not of the form package.module:function; give a function "
            "that returns a module."
        )
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise FamilyError(
            f"The factory {path!r} cannot be imported ({error}); install its package or add its "
            "folder to PYTHONPATH."
        ) from error
    if not callable(getattr(found, name, None)):
        functions = [key for key in vars(found) if callable(getattr(found, key))] or [name]
        raise FamilyError(f"{module} has no function {name!r}; {nearest(name, functions)}")
    return getattr(found, name)  # type: ignore[no-any-return]


def call_factory(path: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """Import a factory that the user typed and call it.

    Raises:
        FamilyError: it fails, or returns something else than a module.
    """
    function = import_factory(path)
    try:
        model = function(**kwargs)
    except SartorError:
        raise
    except Exception as error:  # user code
        raise FamilyError(
            f"The factory {path!r} failed with {dict(kwargs)} ({type(error).__name__}: "
            f"{error}); call it alone to see why."
        ) from error
    if not isinstance(model, nn.Module):
        raise FamilyError(
            f"The factory {path!r} returned a {type(model).__name__}; it must return a "
            "torch.nn.Module."
        )
    return model
