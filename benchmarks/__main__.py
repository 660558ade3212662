"""Run all benchmarks; each prints one table."""

from benchmarks import imports, waiting


def main() -> None:
    imports.main()
    waiting.main()


if __name__ == "__main__":
    main()
