"""Training methods: every module of this package defines and registers one. There is no other list of them."""

from kdiga.methods.base import (
    Method,
    MethodInfo,
    Needs,
    Passes,
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
