"""NNCF's kernels: compiled once into a folder of the project, and handed to NNCF.

By themselves, NNCF and torch compile them at first use, in silence, in a folder that all projects
of a user share, under a lock that a killed process leaves behind. Here whoever is first says so and
compiles in a folder of its own, the others wait for a lock that ends with its holder, and what is
done appears whole.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import nncf
import torch
from filelock import FileLock, Timeout
from nncf.torch.extensions import ExtensionNamespace
from nncf.torch.quantization import extensions
from torch.utils import cpp_extension

from qa.errors import UserError
from qa.outputs import whole_folder

KERNELS = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path(sys.prefix, "kernels")).resolve()
"""In .venv, whose versions they are for: every experiment has a checkout of its own, and this one
environment."""


def load_kernels() -> None:
    """Load the kernels that quantizers run on this machine, compiled if they are not yet.

    Raises:
        UserError: they cannot be compiled, or not be written.
    """
    _load(
        extensions.QuantizedFunctionsCPU,
        extensions.QuantizedFunctionsCPULoader.name(),
        extensions.CPU_EXT_SRC_LIST,
    )
    if torch.cuda.is_available():
        _load(
            extensions.QuantizedFunctionsCUDA,
            extensions.QuantizedFunctionsCUDALoader.name(),
            extensions.CUDA_EXT_SRC_LIST,
        )


def _load(namespace: ExtensionNamespace, name: str, sources: list[str]) -> None:
    if namespace._loaded_namespace is not None:
        return
    made_for = f"nncf-{nncf.__version__}-torch-{torch.__version__}-{sys.implementation.cache_tag}"
    library = KERNELS / made_for / name / f"{name}{cpp_extension.LIB_EXT}"
    try:
        if not library.is_file():
            library.parent.parent.mkdir(parents=True, exist_ok=True)
            with _alone(library.parent.with_suffix(".lock")):
                if not library.is_file():
                    print(f"building NNCF's kernels ({name}), once: about a minute", flush=True)
                    with whole_folder(library.parent) as partial:
                        _build(name, sources, partial / library.name)
    except OSError as error:
        raise UserError(
            f"{library}: NNCF's kernels cannot be built ({error.strerror}); set"
            " TORCH_EXTENSIONS_DIR to another folder"
        ) from None
    namespace._loaded_namespace = _import(name, library)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that one process has at a time; the system frees it when the process ends."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print("another process builds NNCF's kernels: waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(name: str, sources: list[str], library: Path) -> None:
    """Compile a library.

    A compiler that outlives a killed run writes on in the folder that it began in: that is a new
    one each time, and gone.
    """
    compiler = shlex.split(cpp_extension.get_cxx_compiler())[0]  # type: ignore[no-untyped-call]
    if shutil.which(compiler) is None:
        raise UserError(
            f"NNCF's kernels cannot be built: no C++ compiler {compiler!r}; install one (Debian:"
            " apt install g++)"
        )
    with TemporaryDirectory(dir=library.parent) as folder:
        try:
            cpp_extension.load(
                name,
                sources,
                extra_include_paths=extensions.EXT_INCLUDE_DIRS,
                build_directory=folder,
                is_python_module=False,
            )
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"NNCF's kernels cannot be built with {compiler!r}: {_reason(str(error))}"
            ) from None
        os.replace(Path(folder) / library.name, library)


def _reason(output: str) -> str:
    """Of pages of a build's output, the line that says what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = ("error:", "not found", "No space left", "Permission denied", "cannot")
    found = (line for line in lines if any(word in line for word in telling))
    return next(found, lines[-1] if lines else "no reason given")[:300]


def _import(name: str, library: Path) -> ModuleType:
    try:
        spec = importlib.util.spec_from_file_location(name, library)
        if spec is None or spec.loader is None:
            raise ImportError("not a Python module")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        raise UserError(
            f"{library}: NNCF's kernels do not load ({error}); remove this file, and they are"
            " built anew"
        ) from None
    return module
