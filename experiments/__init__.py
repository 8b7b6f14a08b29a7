"""Entry points: one experiment family a module, run as `python -m experiments.<name> --flags`."""
