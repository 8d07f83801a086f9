"""Models as text: a short form, YAML files and plain values, checked before anything is built. It imports no torch."""

from ..errors import Problem, RecipeError
from .builder import build_from_config, build_recipe
from .parser import Definition, DefinitionError, parse_definition
from .recipe import Recipe
from .schema import recipe_schema
from .search import SearchSpace, search_space
from .yaml_loader import (
    create_recipe_from_template,
    expand_macros,
    list_templates,
    load_yaml_config,
    load_yaml_recipe,
    merge_recipes,
    parse_recipe,
    save_yaml_recipe,
    validate_recipe_config,
)

# Its name in version 2.1.
ValidationError = RecipeError

__all__ = [
    "Definition",
    "DefinitionError",
    "Problem",
    "Recipe",
    "RecipeError",
    "SearchSpace",
    "ValidationError",
    "build_from_config",
    "build_recipe",
    "create_recipe_from_template",
    "expand_macros",
    "list_templates",
    "load_yaml_config",
    "load_yaml_recipe",
    "merge_recipes",
    "parse_definition",
    "parse_recipe",
    "recipe_schema",
    "save_yaml_recipe",
    "search_space",
    "validate_recipe_config",
]
