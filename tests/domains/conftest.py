"""The tests here share `domain_kit`, which their scripts on several ranks import as well."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
