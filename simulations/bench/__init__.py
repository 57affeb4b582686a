"""Benchmarks that a reader can run: ``make bench``, and ``make bench-all``, which installs Ray.

What is measured: the share of a private federation's wall time that is not forward, backward or optimizer. ``ours`` is
:func:`fedrelease.simulations.simulate.simulate`, complete. ``bare`` is its twin: the same batches and steps in as many worker
processes, with nothing around them. Both run in turns, and both must end in the same state, bit for bit.

``glue`` is the same federation as it is written with the usual parts and nothing else. Its batches and noise are drawn by other
hands, so that it ends elsewhere: how good both are is looked at in one way.
"""
