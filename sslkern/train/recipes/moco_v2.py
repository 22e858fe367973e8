"""MoCo v2 on images."""

from sslkern.train.moco import moco_recipe
from sslkern.train.recipe import Evidence

RECIPE = moco_recipe(2, 0.2, evidence=Evidence("linear", 0.03), quick=20)
