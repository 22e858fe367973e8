"""XLM on countries and dates in two languages, by translation language modelling."""

from sslkern.train.bilingual import xlm_recipe
from sslkern.train.recipe import Evidence

RECIPE = xlm_recipe("tlm", Evidence("translation", 0.5))
