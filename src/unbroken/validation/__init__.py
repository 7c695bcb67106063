"""Comparisons of agents with baselines that can be trusted: sections of a YAML file, arms, statistics, a report."""
