"""XLM on countries and dates in two languages, by masked language modelling."""

from sslkern.train.bilingual import xlm_recipe
from sslkern.train.recipe import Evidence

RECIPE = xlm_recipe("mlm", Evidence("log_perplexity", 3.0, higher=False))
