"""The one door to optional dependencies: import at the point of use, name the extra when it is absent."""

from __future__ import annotations

import importlib
from types import ModuleType

from vos_core.errors import MissingExtraError


def require(module: str, *, extra: str, purpose: str, package: str = "vos-core") -> ModuleType:
    """Return the imported optional `module`.

    Args:
        module: dotted import name, for example `"av"`.
        extra: the extra that installs it, for example `"video"`.
        purpose: what needs it, completing "... is needed to".
        package: the distribution that declares the extra.

    Raises:
        MissingExtraError: the module cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"Python package '{module}' is needed to {purpose} and cannot be imported ({error})",
            fix=f'Run: pip install "{package}[{extra}]"',
        ) from error
