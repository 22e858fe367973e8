"""MoCo v1 on images."""

from sslkern.train.moco import moco_recipe
from sslkern.train.recipe import Evidence

RECIPE = moco_recipe(1, 0.07, evidence=Evidence("linear", 0.03), quick=20)
