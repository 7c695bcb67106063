"""`python -m unbroken` is `unbroken`."""

from unbroken.cli import main

if __name__ == "__main__":
    main()
