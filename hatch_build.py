"""Puts the recipes into a wheel. An editable installation reads the checkout's, so that there is one copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Recipes(BuildHookInterface):
    """Adds ``recipes/*.yaml``, and none of what runs left beside them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the files, unless the installation is editable."""
        if version != "editable":
            for path in sorted(Path(self.root, "recipes").glob("*.yaml")):
                build_data["force_include"][str(path)] = f"kdiga/recipes/{path.name}"
