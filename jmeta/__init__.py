"""jmeta: the JAX toolkit for meta-learning.

The public names stand in `__init__.pyi` and nowhere else. Each is imported from its module when it is first
used, so that importing jmeta stays light.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
