"""Old name of ``genrec.search.logits``."""

import warnings

from genrec.search.logits import *  # noqa: F403

warnings.warn("genrec.logits is now genrec.search.logits", DeprecationWarning, stacklevel=2)
