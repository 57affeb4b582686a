"""The same federation under several strategies and seeds: plan, runs, statistics, figures, report."""
