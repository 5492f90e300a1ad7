"""Training methods: every module of this package defines one and registers it. Nothing else lists them."""

from kdiga.methods.registry import Method, MethodInfo, available_methods, method_by_name, register

__all__ = ["Method", "MethodInfo", "available_methods", "method_by_name", "register"]
