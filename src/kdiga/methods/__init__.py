"""Training methods: every module of this package defines and registers one. There is no other list of them.

The class of each method is an attribute of the package: ``kdiga.methods.KD(temperature=4)``.
"""

from __future__ import annotations

from typing import Any

from kdiga.methods.base import (
    Method,
    MethodInfo,
    Needs,
    Passes,
    SearchRange,
    available_methods,
    register,
)
from kdiga.methods.combined import Combined, method_by_name, method_class, method_options, search_space, with_options

__all__ = [
    "Combined",
    "Method",
    "MethodInfo",
    "Needs",
    "Passes",
    "SearchRange",
    "available_methods",
    "method_by_name",
    "method_class",
    "method_options",
    "register",
    "search_space",
    "with_options",
]


def __getattr__(name: str) -> Any:
    for method in available_methods().values():
        if method.__name__ == name:
            return method
    raise AttributeError(f"module 'kdiga.methods' has no attribute {name!r}")
