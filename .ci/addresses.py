"""Writes where a version lies into the files that leave the repository: pyproject.toml and README.md, in place.

    python .ci/addresses.py owner/name v0.2.0

The package index and the registry show the README and the icon without the repository around them, so relative links
become addresses of the tag. A tag that is not the version is refused. Needs the standard library alone.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\]\([^)]*\))*)\]\((?!https?://|#|mailto:)([^)\s]+)\)")
SOURCE = re.compile(r'(<(?:img|source)\b[^>]*?\b(?:src|srcset)=")(?!https?://)([^"]+)"')
TARGET = re.compile(r'(<a\b[^>]*?\bhref=")(?!https?://|#)([^"]+)"')


def absolute(text: str, repository: str, tag: str) -> str:
    """Markdown whose relative links are addresses: pictures as files, all else as pages of the repository."""
    pages, files = (
        f"https://github.com/{repository}/blob/{tag}/",
        f"https://raw.githubusercontent.com/{repository}/{tag}/",
    )

    def address(found: re.Match) -> str:
        picture, words, path = found.groups()
        return f"{picture}[{absolute(words, repository, tag)}]({(files if picture else pages) + path})"

    text = LINK.sub(address, text)
    text = SOURCE.sub(lambda found: f'{found[1]}{files}{found[2]}"', text)
    return TARGET.sub(lambda found: f'{found[1]}{pages}{found[2]}"', text)


def project(text: str, repository: str, tag: str) -> str:
    """pyproject.toml with the repository's addresses and the icon's.

    Raises:
        ValueError: the tag is not `v` and the version.
    """
    found = tomllib.loads(text)
    if tag != f"v{found['project']['version']}":
        raise ValueError(f"tag {tag!r} is not v{found['project']['version']}, the version in pyproject.toml")
    icon = found["tool"]["comfy"]["Icon"]
    text = text.replace(f'Icon = "{icon}"', f'Icon = "https://raw.githubusercontent.com/{repository}/{tag}/{icon}"')
    home = f"https://github.com/{repository}"
    urls = {
        "Homepage": home,
        "Repository": home,
        "Issues": f"{home}/issues",
        "Changelog": f"{home}/blob/{tag}/CHANGELOG.md",
    }
    lines = "\n".join(f'{name} = "{url}"' for name, url in urls.items())
    return text.replace("\n[project.scripts]\n", f"\n[project.urls]\n{lines}\n\n[project.scripts]\n")


def main(repository: str, tag: str, root: Path = ROOT) -> None:
    """Both files of a tree."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is no repository; owner/name is one")
    made = {
        "pyproject.toml": project((root / "pyproject.toml").read_text(encoding="utf-8"), repository, tag),
        "README.md": absolute((root / "README.md").read_text(encoding="utf-8"), repository, tag),
    }
    for name, text in made.items():
        (root / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except (ValueError, TypeError) as error:
        sys.exit(f"error: {error}")
