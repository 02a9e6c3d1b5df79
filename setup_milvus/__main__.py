"""`python -m setup_milvus`: run the ingestion job."""

from __future__ import annotations

import sys

from setup_milvus.main import main

if __name__ == "__main__":
    sys.exit(main())
