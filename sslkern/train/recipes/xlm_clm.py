"""XLM on countries and dates in two languages, by causal language modelling."""

from sslkern.train.bilingual import xlm_recipe
from sslkern.train.recipe import Evidence

RECIPE = xlm_recipe("clm", Evidence("log_perplexity", 3.5, higher=False), quick=6)
