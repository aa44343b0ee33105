"""`python -m gptoss_mlx.chat`: the same as the command `gptoss-mlx chat`."""

from gptoss_mlx.cli.chat import chat

if __name__ == "__main__":
    chat(prog_name="python -m gptoss_mlx.chat")
