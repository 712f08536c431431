"""What is beyond PyTorch and NumPy: loaded where it is used, and asked for by name."""

import importlib
from types import ModuleType

__all__ = ["need"]


def need(module: str, extra: str) -> ModuleType:
    """The module, from a package of one of gfnlite's extras.

    Raises:
        ImportError: without it, naming what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f"the module {module.partition('.')[0]} is missing"
        raise ImportError(f"{message}: pip install 'gfnlite[{extra}]'") from error
