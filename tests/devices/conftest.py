"""Lets the modules here find each other, and the kits of other folders."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), *(str(HERE.parent / folder) for folder in ("contract", "domains", "callbacks"))]
