"""Old name of ``semtok.content.shards``."""

import warnings

from semtok.content.shards import *  # noqa: F403

warnings.warn("semtok.sharded is now semtok.content.shards", DeprecationWarning, stacklevel=2)
