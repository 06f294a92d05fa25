"""What the documentation says about files holds."""
import re

from harness import ROOT


def dependencies():
    """Names under [dependencies] and [dev-dependencies], one a line as Cargo.toml keeps them."""
    names, inside = set(), False
    for line in (ROOT / "Cargo.toml").read_text().splitlines():
        if line.startswith("["):
            inside = line in ("[dependencies]", "[dev-dependencies]")
        elif inside and (found := re.match(r"([A-Za-z0-9_-]+)\s*=", line)):
            names.add(found[1])
    return names


def test_each_dependency_is_explained(t):
    explained = set()
    for line in (ROOT / "docs" / "dependencies.md").read_text().splitlines():
        if line.startswith("|"):
            explained |= {name.strip() for name in line.split("|")[1].split(",")}
    explained -= {"crate", "---"}
    assert explained == dependencies(), (explained ^ dependencies())


def test_links_between_pages_lead_somewhere(t):
    dead = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md"), *ROOT.glob("policies/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            if not (page.parent / target).exists():
                dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert not dead, dead


def test_scripts_are_executable(t):
    for script in ("tests/run", ".ci/run"):
        assert (ROOT / script).stat().st_mode & 0o111, script
