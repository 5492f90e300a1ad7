"""Training methods: every module of this package defines one and registers it. Nothing else lists them."""

from kdiga.methods.needs import Needs, Passes
from kdiga.methods.registry import (
    Method,
    MethodInfo,
    SearchRange,
    available_methods,
    method_by_name,
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
    "register",
    "search_space",
]
