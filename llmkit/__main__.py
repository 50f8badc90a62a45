"""`python -m llmkit` and the command `llmkit`."""


def main() -> None:
    """Run the command line."""
    from llmkit.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
