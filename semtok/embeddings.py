"""Old name of ``semtok.content``."""

import warnings

from semtok.content.embed import *  # noqa: F403
from semtok.content.embeddings import *  # noqa: F403

warnings.warn("semtok.embeddings is now semtok.content", DeprecationWarning, stacklevel=2)
