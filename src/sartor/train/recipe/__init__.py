"""A recipe: which of the known ways to train for less are switched on."""

from sartor.train.recipe.recipe import Recipe

__all__ = [
    "Recipe",
]
