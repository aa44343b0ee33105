"""`python -m gptoss_mlx`: the same as the command `gptoss-mlx`."""

from gptoss_mlx.cli import main

if __name__ == "__main__":
    main(prog_name="python -m gptoss_mlx")
