"""Bias spillover: does aligning a language model for one attribute harm its fairness on others?

The library behind the workflow. It knows nothing of Snakemake: functions here take
tables, models and settings and return tables; the scripts beside this package read and write.
"""
