"""Print pip constraints that pin every requirement in setup.cfg to the lowest version that it allows.

`torch>=2.6` becomes `torch==2.6`, and `jsonargparse[signatures]>=4.39,<5` becomes `jsonargparse==4.39`. A requirement
that allows any version is an error, because nobody has tried its lowest one.
"""

import configparser
import re
import sys
from collections.abc import Iterator

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[.*?\])?\s*(>=|==)\s*(?P<lowest>[\w.]+)")


def constraints(text: str) -> Iterator[str]:
    """Yield one constraint for each requirement, optional ones included, in the order of the file."""
    config = configparser.ConfigParser()
    config.read_string(text)
    groups = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    for requirement in (line for group in groups for line in group.splitlines()):
        if not requirement or requirement.startswith(f"{config['metadata']['name']}["):
            continue  # an extra that consists of other extras
        match = _REQUIREMENT.match(requirement)
        if match is None:
            raise SystemExit(f"Cannot find the lowest version of {requirement!r} in setup.cfg; write name>=version")
        yield f"{match['name']}=={match['lowest']}"


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        print(*constraints(file.read()), sep="\n")
