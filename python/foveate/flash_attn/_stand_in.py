"""A package `flash_attn` that holds foveate's functions, for code that imports it.

It is found as any package is: by `import`, `importlib.util.find_spec` and `importlib.metadata`. The
one finder that shows it is all that stands in the import system.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.abc import InspectLoader, Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from . import _padding, _rotary, _transformers
from ._dense import flash_attn_func, flash_attn_kvpacked_func, flash_attn_qkvpacked_func
from ._kvcache import flash_attn_with_kvcache
from ._varlen import (
    flash_attn_varlen_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)

VERSION = "2.8.3"  # of flash-attention, whose signatures these are

_FUNCTIONS = {
    function.__name__: function
    for function in (
        flash_attn_func,
        flash_attn_kvpacked_func,
        flash_attn_qkvpacked_func,
        flash_attn_varlen_func,
        flash_attn_varlen_kvpacked_func,
        flash_attn_varlen_qkvpacked_func,
        flash_attn_with_kvcache,
    )
}
_PADDING = ("index_first_axis", "index_put_first_axis", "pad_input", "unpad_input")

# What each module holds.
_MODULES: dict[str, dict[str, Any]] = {
    "flash_attn": {"__version__": VERSION, **_FUNCTIONS},
    "flash_attn.flash_attn_interface": _FUNCTIONS,
    "flash_attn.bert_padding": {name: getattr(_padding, name) for name in _PADDING},
    "flash_attn.layers": {},
    "flash_attn.layers.rotary": {"apply_rotary_emb": _rotary.apply_rotary_emb},
}
_PACKAGES = ("flash_attn", "flash_attn.layers")


def install() -> None:
    """Let `import flash_attn` find the functions of `foveate.flash_attn` in this process.

    Call it before what is to use them is imported or asks whether flash-attention is there. The
    modules are `flash_attn`, `flash_attn.flash_attn_interface`, `flash_attn.bert_padding`
    (`pad_input`, `unpad_input`, `index_first_axis`, `index_put_first_axis`) and
    `flash_attn.layers.rotary` (`apply_rotary_emb`). No more of flash-attention is there: importing
    its `ops`, `losses` or `modules` raises ImportError.

    For transformers, already imported or not, `attn_implementation="flash_attention_2"` works with
    models on the CPU from then on. A second call changes nothing.

    Raises
    ------
    ImportError
        Where a package `flash_attn` is installed.

    See Also
    --------
    uninstall : take it away.
    foveate.transformers.register : for transformers alone.

    Examples
    --------
    >>> import foveate.flash_attn
    >>> foveate.flash_attn.install()
    >>> from flash_attn import flash_attn_func
    >>> flash_attn_func is foveate.flash_attn.flash_attn_func
    True
    >>> foveate.flash_attn.uninstall()
    """
    if _FINDER in sys.meta_path:
        return
    _refuse_a_real_one()
    sys.meta_path.insert(0, _FINDER)
    importlib.invalidate_caches()
    for name in _MODULES:
        importlib.import_module(name)
    _transformers.allow("install")


def uninstall() -> None:
    """Take away what `install` put there: `import flash_attn` finds what it found before.

    Modules that have imported functions keep them. Without `install` before, nothing changes.

    See Also
    --------
    install : what is taken away.

    Examples
    --------
    >>> import importlib.util, foveate.flash_attn
    >>> foveate.flash_attn.install()
    >>> foveate.flash_attn.uninstall()
    >>> importlib.util.find_spec("flash_attn") is None
    True
    """
    if _FINDER not in sys.meta_path:
        return
    sys.meta_path.remove(_FINDER)
    for name in _MODULES:
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    _transformers.forbid("install")


def _refuse_a_real_one() -> None:
    spec = importlib.util.find_spec("flash_attn")
    if spec is not None:
        at = spec.origin or next(iter(spec.submodule_search_locations or ()), "sys.modules")
        raise ImportError(
            f"flash_attn: got a package of this name at {at}, wanted none; import the functions "
            "from foveate.flash_attn, or remove that package"
        )


class _Finder(metadata.DistributionFinder):
    """Finds the modules, the distribution, and transformers when it is imported."""

    _is_looking = False

    def find_spec(self, fullname: str, *_: Any) -> ModuleSpec | None:
        """Find a module."""
        if fullname in _MODULES:
            is_package = fullname in _PACKAGES
            return ModuleSpec(fullname, _Modules(), origin=__file__, is_package=is_package)
        if fullname in _transformers.MODULES and not self._is_looking:
            self._is_looking = True
            try:
                spec = importlib.util.find_spec(fullname)
            finally:
                self._is_looking = False
            if spec is not None and spec.loader is not None:
                spec.loader = _ThenAllow(spec.loader)
            return spec
        return None

    def find_distributions(self, context: Any = None) -> Iterator[metadata.Distribution]:
        """Find the distribution, where its name or none is asked for."""
        name = getattr(context, "name", None)
        if name is None or re.sub(r"[-_.]+", "-", name).lower() == "flash-attn":
            yield _Distribution()


class _Distribution(metadata.Distribution):
    """What `importlib.metadata` tells."""

    _files: ClassVar = {
        "METADATA": "Metadata-Version: 2.1\nName: flash-attn\n"
        f"Version: {VERSION}\nSummary: The functions of foveate.flash_attn, on CPUs\n",
        "top_level.txt": "flash_attn\n",
    }

    def read_text(self, filename: str) -> str | None:
        """Give the text of a file of the metadata."""
        return self._files.get(str(filename))

    def locate_file(self, path: Any) -> Path:
        """Say where a file would be."""
        return Path(__file__).parent / str(path)


class _Modules(InspectLoader):
    """Makes the modules."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill a module."""
        module.__doc__ = "foveate's functions, under the names of flash-attention 2."
        held = _MODULES[module.__name__]
        vars(module).update(held, __all__=[name for name in held if not name.startswith("_")])

    def get_source(self, fullname: str) -> None:
        """Say that there is none."""

    def is_package(self, fullname: str) -> bool:
        """Say whether a module has others in it."""
        return fullname in _PACKAGES


class _ThenAllow(Loader):
    """Loads a module of transformers as its loader does, and then prepares it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> Any:
        """Make the module."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run it, as its own loader's."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _transformers.allow("install")


_FINDER = _Finder()
