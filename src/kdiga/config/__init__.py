"""Recipes: from a YAML file to objects. Nothing below this package knows that recipes exist."""

from kdiga.config.load import load_recipe, recipe_from_dict
from kdiga.config.run import run_recipe
from kdiga.config.schema import DataConfig, ModelConfig, Recipe

__all__ = ["DataConfig", "ModelConfig", "Recipe", "load_recipe", "recipe_from_dict", "run_recipe"]
