"""Run the command line as a module: ``python -m postroad_operator.cli``."""

from postroad_operator.cli import main

if __name__ == "__main__":
    main(prog_name="postroad")
