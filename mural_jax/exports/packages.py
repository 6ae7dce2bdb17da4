"""Imports of optional packages that some exports need."""

from importlib import import_module
from types import ModuleType

from mural_jax.types import UserError


def import_package(name: str, install: str) -> ModuleType:
    """Returns a package or one of its modules.

    install: how to install it, for the message.

    Raises UserError if it is missing or broken.
    """
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:
        raise UserError(f'This export needs the package {name} ({error}): {install}.') from error
