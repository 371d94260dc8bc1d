"""Every check and the main job, each in an environment of its own. `nox -l` lists them; `nox -s tests` runs one."""

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "types", "rules", "tests"]

CORE = "shared/vos-core"
METHODS = ["rmem-deaot", "sam2-rcms", "rsp-pretrain", "stcn-ttt", "object-pursuit"]
MEMBERS = ["vos-core", *METHODS]
FOLDERS = {"vos-core": CORE, **{name: f"packages/{name}" for name in METHODS}}
TEST_TOOLS = ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100"]


def install(session: nox.Session, *members: str) -> None:
    """Install these members editable, and vos-core, which all of them need."""
    targets = [f"{CORE}[video,report]", *(FOLDERS[name] for name in members if name != "vos-core")]
    session.install(*(part for target in targets for part in ("-e", target)), *TEST_TOOLS)


def run_tests(session: nox.Session, package: str, marks: str) -> None:
    """Run the member's tests that `marks` picks, shared among a few processes of one thread."""
    # Each process begins with neighbours, so that most files' fixtures are made once, and takes from the others when it is done.
    spread = ["--numprocesses=auto", "--maxprocesses=4", "--dist=worksteal"]
    words = ["pytest", f"{FOLDERS[package]}/tests", "-m", marks, *spread, "--durations=5", *session.posargs]
    session.run(*words, env={"OMP_NUM_THREADS": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Style and format of every file."""
    session.install("ruff>=0.6")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict type check of every member."""
    install(session, *METHODS)
    session.install("mypy>=2.4", "types-PyYAML", "types-tqdm", "scipy-stubs")
    session.run("mypy", "--num-workers=2", *(f"{folder}/src" for folder in FOLDERS.values()))


@nox.session
def rules(session: nox.Session) -> None:
    """The arrows of import (ci/importlinter.toml)."""
    install(session, *METHODS)
    session.install("import-linter>=2")
    session.run("lint-imports", "--config", "ci/importlinter.toml")


@nox.session
@nox.parametrize("package", MEMBERS, ids=MEMBERS)
def tests(session: nox.Session, package: str) -> None:
    """All but the longest tests of one member, with nothing installed but itself and vos-core."""
    install(session, package)
    run_tests(session, package, "not long")


@nox.session
@nox.parametrize("package", MEMBERS, ids=MEMBERS)
def parity(session: nox.Session, package: str) -> None:
    """Of the tests of one member only the comparison with the numbers of the original implementations."""
    install(session, package)
    run_tests(session, package, "parity")


@nox.session
@nox.parametrize("package", ["sam2-rcms", "object-pursuit"], ids=["sam2-rcms", "object-pursuit"])
def long(session: nox.Session, package: str) -> None:
    """Tests that train for minutes: what a small network learns, against what its README says."""
    install(session, package)
    run_tests(session, package, "long")


@nox.session
def wheels(session: nox.Session) -> None:
    """Build every wheel, install each alone with what it requires and run its command on a clip."""
    session.install("hatchling>=1.27", "uv")
    session.run("python", "ci/wheel_smoke.py", *(FOLDERS[name] for name in MEMBERS))


@nox.session
def benchmark(session: nox.Session) -> None:
    """The main job: every method over the same clips, one table, one record, one page. Takes --clips --methods --weights."""
    install(session, *METHODS)
    session.run("python", "benchmarks/run.py", *session.posargs)
