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
    method_by_name,
    method_class,
    register,
    search_space,
)

__all__ = [
    "Method",
    "MethodInfo",
    "Needs",
    "Passes",
    "SearchRange",
    "available_methods",
    "method_by_name",
    "method_class",
    "register",
    "search_space",
]


def __getattr__(name: str) -> Any:
    for method in available_methods().values():
        if method.__name__ == name:
            return method
    raise AttributeError(f"module 'kdiga.methods' has no attribute {name!r}")
