"""`python -m qlens_tui` is the `qlens` command."""

from qlens_tui.cli.main import main

if __name__ == "__main__":
    main()
