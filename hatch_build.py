"""Compiles the kernels of ``etf_heads/kernels`` when the project is installed from source.

Where this is not possible (no C++ compiler, or one that does not know GNU's vectors) the package is
installed without them, with a message, and works all the same. ``python hatch_build.py`` compiles
them in place, as an editable install does; ``ETF_HEADS_KERNELS=0`` leaves them out.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # as a program
    BuildHookInterface = object

FOLDER = Path(__file__).parent / "etf_heads" / "kernels"
SOURCES = [FOLDER / "cross_entropy.cpp", FOLDER / "bases.cpp"]
FLAGS = [
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden"),
    *("-fno-exceptions", "-fno-rtti"),
    # Neither changes a result, unlike -ffast-math: loops with a comparison become vectors.
    *("-fno-math-errno", "-fno-trapping-math"),
    "-Wno-psabi",  # vectors are passed inside of a file only
]
VARIANTS = {"": []}  # by what follows the name of the library
if platform.machine() in ("x86_64", "AMD64"):
    VARIANTS["-avx2"] = ["-mavx2", "-mfma"]  # chosen when it is loaded


class NotCompiledError(Exception):
    """The reason why there are no kernels."""


def compile_kernels(folder: Path, extra: list[str] | None = None) -> list[Path]:
    """Libraries in a folder, all or none, in place of those that are there.

    Args:
        folder: where they go.
        extra: more flags.

    Raises:
        NotCompiledError: without a compiler, or if it fails.
    """
    targets = {folder / f"libkernels{name}.so": flags for name, flags in VARIANTS.items()}
    for target in targets:
        target.unlink(missing_ok=True)  # of an older source
    if os.environ.get("ETF_HEADS_KERNELS") == "0":
        raise NotCompiledError("ETF_HEADS_KERNELS=0")
    found = filter(None, map(shutil.which, ("c++", "g++", "clang++")))
    compiler = shlex.split(os.environ.get("CXX", "")) or list(found)[:1]
    if not compiler:
        raise NotCompiledError("there is no C++ compiler")
    with tempfile.TemporaryDirectory() as scratch:
        for target, flags in targets.items():
            made = Path(scratch) / target.name
            command = [*compiler, *FLAGS, *flags, *(extra or []), *map(str, SOURCES)]
            command += ["-o", str(made)]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True)
            except OSError as error:
                raise NotCompiledError(str(error)) from error
            except subprocess.CalledProcessError as error:
                raise NotCompiledError(f"{shlex.join(command)}\n{error.stderr[-2000:]}") from error
        for target in targets:
            shutil.copyfile(Path(scratch) / target.name, target)
    return list(targets)


class Kernels(BuildHookInterface):
    """The hook of hatchling: a wheel of this platform with kernels, or one of any without."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile before the files are collected."""
        if self.target_name != "wheel":
            return
        try:
            compile_kernels(FOLDER)
        except (NotCompiledError, OSError) as error:
            self.app.display_warning(f"etf_heads is installed without compiled kernels: {error}")
            return
        from packaging.tags import sys_tags  # noqa: PLC0415 (hatchling needs it)

        platforms = (tag.platform for tag in sys_tags())
        # The others say that it runs on systems on which nobody has tried it.
        own = next(p for p in platforms if not p.startswith(("manylinux", "musllinux")))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{own}"


if __name__ == "__main__":
    try:
        print(*compile_kernels(FOLDER), sep="\n")
    except NotCompiledError as error:
        sys.exit(str(error))
