"""Old name of ``recbase.data.catalog``."""

import warnings

from recbase.data.catalog import *  # noqa: F403

warnings.warn("recbase.datasets is now recbase.data.catalog", DeprecationWarning, stacklevel=2)
