"""The program with its switch for the stop turned off."""

from fixture import main  # type: ignore[import-not-found]

if __name__ == "__main__":
    main(["--no-stop-target"])
